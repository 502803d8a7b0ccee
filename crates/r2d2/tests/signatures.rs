//! r2d2's API by signature, compiled against r2d2 and against the drop-in.

/// One text, compiled twice.
mod original {
    use original as pool;
    include!("signatures/api.rs");
}

mod dropin {
    use r2d2 as pool;
    include!("signatures/api.rs");
}

#[test]
fn p18_the_api_of_r2d2_compiles_against_both() {
    original::api();
    dropin::api();
}

#[test]
fn p18_the_defaults_and_the_texts_are_those_of_r2d2() {
    assert_eq!(dropin::texts(), original::texts());
    assert!(original::texts().iter().any(|text| text.contains("timed out")));
}

#[test]
fn p18_panics_have_the_texts_of_r2d2() {
    assert_eq!(dropin::panics(), original::panics());
    assert_eq!(original::panics().len(), 5);
}

/// diesel exports all of them again, so one more could clash with a name of its own.
#[test]
fn p18_the_root_has_no_name_more_than_r2d2() {
    let root = include_str!("../src/lib.rs");
    let exports = root.split("pub use ").skip(1).map(|rest| rest.split(';').next().unwrap_or(""));
    let names = exports.flat_map(|path| path.rsplit("::").next().unwrap_or("").split(','));
    let trim = |name: &'static str| name.trim_matches(|c: char| !c.is_alphanumeric());
    let mut names: Vec<&str> = names.map(trim).filter(|name| !name.is_empty()).collect();
    names.extend(root.split("pub mod ").skip(1).map(|rest| rest.split(';').next().unwrap_or("")));
    names.sort_unstable();
    let expected = [
        "Builder",
        "CustomizeConnection",
        "Error",
        "Extensions",
        "HandleError",
        "HandleEvent",
        "LoggingErrorHandler",
        "ManageConnection",
        "NopConnectionCustomizer",
        "NopErrorHandler",
        "NopEventHandler",
        "Pool",
        "PooledConnection",
        "State",
        "event",
    ];
    assert_eq!(names, expected);
}
