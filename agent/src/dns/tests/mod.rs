//! The gate as a whole, with sockets, against name servers in this process.

mod answers;
mod hostile;
mod stage;
mod transport;
