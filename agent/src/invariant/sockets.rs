//! Tables of sockets.

use crate::scope::held::net::{TABLES, parse};

/// Each line is read as one of each table; a socket can be shown in one line.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for line in text.split('\n') {
        for table in TABLES {
            if let Some((_, socket)) = parse(table, line) {
                let shown = socket.to_string();
                assert!(!shown.contains('\n') && shown.contains("socket"), "{shown:?}");
            }
        }
    }
}
