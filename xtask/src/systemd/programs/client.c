/* Fetches http://HOST/PATH: a static binary, with the resolver of the C library it is linked with. */
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **words)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *all, *one;
	char text[4096];
	int status, connection = -1;
	ssize_t length;

	if (count != 3) {
		fprintf(stderr, "usage: %s HOST PATH\n", words[0]);
		return 2;
	}
	status = getaddrinfo(words[1], "80", &hints, &all);
	if (status != 0) {
		fprintf(stderr, "%s: %s\n", words[1], gai_strerror(status));
		return 1;
	}
	for (one = all; one; one = one->ai_next) {
		connection = socket(one->ai_family, one->ai_socktype, one->ai_protocol);
		if (connection >= 0 && connect(connection, one->ai_addr, one->ai_addrlen) == 0)
			break;
		perror(words[1]);
		if (connection >= 0)
			close(connection);
		connection = -1;
	}
	if (connection < 0)
		return 1;
	snprintf(text, sizeof text, "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", words[2], words[1]);
	if (write(connection, text, strlen(text)) < 0) {
		perror(words[1]);
		return 1;
	}
	while ((length = read(connection, text, sizeof text)) > 0)
		fwrite(text, 1, length, stdout);
	return length < 0;
}
