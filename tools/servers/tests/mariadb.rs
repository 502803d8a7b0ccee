//! A MariaDB server leaves nothing behind, and can be frozen and started again.

use std::net::TcpStream;

use fairpool_servers::mariadb::MariaDb;

#[test]
fn a_mariadb_is_frozen_stops_starts_again_and_leaves_nothing() {
    let server = MariaDb::start();
    let (folder, port) = (server.folder().to_owned(), server.port());
    assert_eq!(server.sql("SELECT 1 + 1"), "2");
    drop(server.freeze());
    server.sql("CREATE TABLE shop.kept (id int)");

    server.stop();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    server.start_again();
    assert_eq!(server.sql("SELECT count(*) FROM shop.kept"), "0");

    drop(server);
    assert!(!folder.exists());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}
