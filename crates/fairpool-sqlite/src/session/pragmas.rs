//! What each pragma leaves behind when it is given a value.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing in the session.
    Harmless,
    /// A value that can be read, compared and set again.
    Setting,
    /// Something that cannot be undone, or that we do not know.
    Other,
}

/// Pragmas of a connection that say their value, and take it back.
pub(super) const SETTINGS: &[&str] = &[
    "analysis_limit",
    "automatic_index",
    "busy_timeout",
    "cache_size",
    "cache_spill",
    "cell_size_check",
    "checkpoint_fullfsync",
    "count_changes",
    "defer_foreign_keys",
    "empty_result_callbacks",
    "foreign_keys",
    "full_column_names",
    "fullfsync",
    "ignore_check_constraints",
    "journal_size_limit",
    "legacy_alter_table",
    "mmap_size",
    "query_only",
    "read_uncommitted",
    "recursive_triggers",
    "reverse_unordered_selects",
    "secure_delete",
    "short_column_names",
    "synchronous",
    "threads",
    "trusted_schema",
    "wal_autocheckpoint",
    "writable_schema",
];

/// Settings that apply to all attached databases too, if they are given none.
pub(super) fn reaches_attached(name: &str) -> bool {
    matches!(name, "mmap_size" | "secure_delete")
}

/// Their value is an argument, or belongs to the database and not to the connection.
const HARMLESS: &[&str] = &[
    "application_id",
    "data_version",
    "foreign_key_check",
    "foreign_key_list",
    "freelist_count",
    "incremental_vacuum",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "optimize",
    "page_count",
    "quick_check",
    "schema_version",
    "shrink_memory",
    "stats",
    "table_info",
    "table_list",
    "table_xinfo",
    "user_version",
    "wal_checkpoint",
];

/// `name` in small letters.
pub(super) fn kind(name: &str) -> Kind {
    if SETTINGS.binary_search(&name).is_ok() {
        Kind::Setting
    } else if HARMLESS.binary_search(&name).is_ok() {
        Kind::Harmless
    } else {
        Kind::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_sorted() {
        assert!(SETTINGS.is_sorted() && HARMLESS.is_sorted());
    }

    #[test]
    fn what_is_unknown_cannot_be_undone() {
        assert_eq!(kind("foreign_keys"), Kind::Setting);
        assert_eq!(kind("table_info"), Kind::Harmless);
        for other in ["journal_mode", "locking_mode", "case_sensitive_like", "temp_store", "key"] {
            assert_eq!(kind(other), Kind::Other);
        }
    }
}
