use super::*;

fn effect(sql: &str) -> Effect {
    Effect::of(sql, &Harmless::default())
}

#[test]
fn the_usual_statements_leave_nothing() {
    for sql in [
        "SELECT 1",
        " \n select name from item where id = ? for update",
        "(SELECT 1) UNION (SELECT 2)",
        "SELECT count(*), max( price ), 'get_lock(; @a' FROM shop.item AS i WHERE id IN (1, 2)",
        "INSERT INTO shop.item (name, price) VALUES ('it''s', 2), (?, ?)",
        "insert into `item` (name) values ('x') on duplicate key update name = values(name)",
        "UPDATE item SET name = concat(name, '!') WHERE id = 7;",
        "DELETE FROM item -- ; SET a = 1\n WHERE id = 1 # ; another\n",
        "SELECT /* a comment; SET @a = 1 */ @@version, @@session.sql_mode",
        "REPLACE INTO item VALUES (1, 'ü')",
        "SHOW TABLES",
        r#"SELECT "a; SET @a = 1", "b""c""#,
        "SELECT 5 - -1, 'a' 'b'; ; ",
    ] {
        assert_eq!(effect(sql), Effect::Nothing, "{sql}");
    }
}

#[test]
fn what_may_leave_something_is_marked() {
    for sql in [
        "SELECT GET_LOCK('a', 1)",
        "SELECT get_lock /* here */ ('a', 1)",
        "SELECT @a := 1",
        "SELECT 1 INTO @a",
        "SELECT total(1)",
        "SELECT shop.count(1)",
        "SELECT `count`(1)",
        r#"SELECT "count"(1)"#,
        "SELECT last_insert_id(7)",
        "INSERT INTO item (name) VALUES (total(1))",
        "INSERT INTO item SELECT release_lock('a')",
        "SELECT nextval(s)",
    ] {
        assert_eq!(effect(sql), Effect::Session, "{sql}");
    }
    for sql in [
        "SET autocommit = 0",
        "BEGIN",
        "START TRANSACTION",
        "COMMIT AND CHAIN",
        "USE other",
        "LOCK TABLES item WRITE",
        "CREATE TEMPORARY TABLE t (a int)",
        "PREPARE s FROM 'SELECT 1'",
        "XA START 'a'",
        "HANDLER item OPEN",
        "FLUSH TABLES WITH READ LOCK",
        "`select` 1",
    ] {
        assert_eq!(effect(sql), Effect::Anything, "{sql}");
    }
    for sql in [
        "SELECT 1; SET @a = 1",
        "SELECT 1;BEGIN",
        "CALL p()",
        "EXECUTE IMMEDIATE 'USE other'",
        "SELECT /*! 1; SET @a = 1 */",
        "SELECT /*M! SQL_NO_CACHE */ 1",
        r"SELECT 'a\'; SET @a = 1; -- '",
    ] {
        assert_eq!(effect(sql), Effect::Several, "{sql}");
    }
}

#[test]
fn named_functions_leave_nothing() {
    let mut harmless = Harmless::default();
    harmless.add(["Total".to_owned(), "audit.*".to_owned()].into_iter());
    let effect = |sql| Effect::of(sql, &harmless);
    assert_eq!(effect("SELECT total(1), TOTAL(2), Audit.who()"), Effect::Nothing);
    assert_eq!(effect("SELECT totals(1)"), Effect::Session);
    assert_eq!(effect("SELECT shop.total(1)"), Effect::Session);
}

/// Neither recurses nor panics, whatever the text.
#[test]
fn odd_texts_are_read_to_their_end() {
    for piece in ["(", "'", "`", "/*", "*/", "@", "@@", ";", ".", "-- ", "#", "ü", "a(", "\0", "--"]
    {
        let text = format!("SELECT {}", piece.repeat(20_000));
        effect(&text);
        effect(&piece.repeat(20_000));
    }
    assert_eq!(effect(""), Effect::Nothing);
}
