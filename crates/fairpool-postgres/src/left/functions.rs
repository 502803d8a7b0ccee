//! Which functions leave nothing on a session.

use super::Left;

/// Functions of PostgreSQL itself that leave nothing. Sorted. Aggregates, and functions of
/// strings, numbers, dates, arrays, ranges, JSON, searches and the catalogue; a test asks the
/// server that none but a few is volatile.
#[rustfmt::skip]
pub(super) static HARMLESS: &[&str] = &[
    "abbrev", "abs", "acos", "acosd", "age", "any_value", "area", "array_agg",
    "array_append", "array_cat", "array_dims", "array_fill", "array_length", "array_lower",
    "array_ndims", "array_position", "array_positions", "array_prepend", "array_remove",
    "array_replace", "array_reverse", "array_sample", "array_shuffle", "array_sort",
    "array_to_json", "array_to_string", "array_upper", "ascii", "asin", "asind", "atan",
    "atan2", "atan2d", "atand", "avg", "bit_and", "bit_count", "bit_length", "bit_or",
    "bit_xor", "bool", "bool_and", "bool_or", "box", "broadcast", "btrim", "cardinality",
    "casefold", "cbrt", "ceil", "ceiling", "center", "char_length", "character_length",
    "chr", "circle", "clock_timestamp", "col_description", "concat", "concat_ws", "convert",
    "convert_from", "convert_to", "corr", "cos", "cosd", "cot", "cotd", "count",
    "covar_pop", "covar_samp", "crc32", "crc32c", "cume_dist", "current_database",
    "current_schema", "current_schemas", "current_setting", "currval", "date", "date_add",
    "date_bin", "date_part", "date_subtract", "date_trunc", "datemultirange", "daterange",
    "decode", "degrees", "dense_rank", "diameter", "div", "encode", "enum_first",
    "enum_last", "enum_range", "erf", "erfc", "every", "exp", "factorial", "family",
    "first_value", "float4", "float8", "floor", "format", "format_type", "gamma", "gcd",
    "gen_random_uuid", "generate_series", "generate_subscripts", "get_bit", "get_byte",
    "has_any_column_privilege", "has_column_privilege", "has_database_privilege",
    "has_function_privilege", "has_schema_privilege", "has_sequence_privilege",
    "has_table_privilege", "height", "host", "hostmask", "inet_client_addr",
    "inet_client_port", "inet_server_addr", "inet_server_port", "initcap", "int2", "int4",
    "int4multirange", "int4range", "int8", "int8multirange", "int8range", "interval",
    "isclosed", "isempty", "isfinite", "isopen", "json_agg", "json_array_elements",
    "json_array_elements_text", "json_array_length", "json_build_array",
    "json_build_object", "json_each", "json_each_text", "json_extract_path",
    "json_extract_path_text", "json_object", "json_object_agg", "json_object_keys",
    "json_populate_record", "json_populate_recordset", "json_strip_nulls", "json_to_record",
    "json_to_recordset", "json_typeof", "jsonb_agg", "jsonb_array_elements",
    "jsonb_array_elements_text", "jsonb_array_length", "jsonb_build_array",
    "jsonb_build_object", "jsonb_each", "jsonb_each_text", "jsonb_extract_path",
    "jsonb_extract_path_text", "jsonb_insert", "jsonb_object", "jsonb_object_agg",
    "jsonb_object_keys", "jsonb_path_exists", "jsonb_path_match", "jsonb_path_query",
    "jsonb_path_query_array", "jsonb_path_query_first", "jsonb_populate_record",
    "jsonb_populate_recordset", "jsonb_pretty", "jsonb_set", "jsonb_set_lax",
    "jsonb_strip_nulls", "jsonb_to_record", "jsonb_to_recordset", "jsonb_typeof",
    "justify_days", "justify_hours", "justify_interval", "lag", "last_value", "lastval",
    "lcm", "lead", "left", "length", "lgamma", "like", "ln", "log", "log10", "lower",
    "lower_inc", "lower_inf", "lpad", "ltrim", "make_date", "make_interval", "make_time",
    "make_timestamp", "make_timestamptz", "masklen", "max", "md5", "min", "min_scale",
    "mod", "mode", "multirange", "name", "netmask", "network", "notlike", "now", "npoints",
    "nth_value", "ntile", "num_nonnulls", "num_nulls", "nummultirange", "numnode",
    "numrange", "obj_description", "octet_length", "oid", "overlaps", "parse_ident", "path",
    "percent_rank", "percentile_cont", "percentile_disc", "pg_advisory_unlock",
    "pg_advisory_unlock_all", "pg_advisory_unlock_shared", "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared", "pg_backend_pid", "pg_blocking_pids",
    "pg_cancel_backend", "pg_client_encoding", "pg_column_size", "pg_current_snapshot",
    "pg_current_wal_lsn", "pg_current_xact_id", "pg_current_xact_id_if_assigned",
    "pg_database_size", "pg_encoding_to_char", "pg_function_is_visible",
    "pg_get_constraintdef", "pg_get_expr", "pg_get_functiondef", "pg_get_indexdef",
    "pg_get_keywords", "pg_get_ruledef", "pg_get_serial_sequence", "pg_get_triggerdef",
    "pg_get_userbyid", "pg_get_viewdef", "pg_get_wal_replay_pause_state", "pg_has_role",
    "pg_indexes_size", "pg_is_in_recovery", "pg_is_other_temp_schema",
    "pg_last_wal_receive_lsn", "pg_last_wal_replay_lsn", "pg_last_xact_replay_timestamp",
    "pg_listening_channels", "pg_my_temp_schema", "pg_notify", "pg_postmaster_start_time",
    "pg_relation_size", "pg_size_bytes", "pg_size_pretty", "pg_sleep", "pg_sleep_for",
    "pg_sleep_until", "pg_table_is_visible", "pg_table_size", "pg_tablespace_size",
    "pg_terminate_backend", "pg_total_relation_size", "pg_try_advisory_xact_lock",
    "pg_try_advisory_xact_lock_shared", "pg_type_is_visible", "pg_typeof",
    "pg_visible_in_snapshot", "pg_wal_lsn_diff", "phraseto_tsquery", "pi",
    "plainto_tsquery", "point", "polygon", "position", "pow", "power", "querytree",
    "quote_ident", "quote_literal", "quote_nullable", "radians", "random", "random_normal",
    "range_agg", "range_intersect_agg", "range_merge", "rank", "regexp_count",
    "regexp_instr", "regexp_like", "regexp_match", "regexp_matches", "regexp_replace",
    "regexp_split_to_array", "regexp_split_to_table", "regexp_substr", "regr_avgx",
    "regr_avgy", "regr_count", "regr_intercept", "regr_r2", "regr_slope", "regr_sxx",
    "regr_sxy", "regr_syy", "repeat", "replace", "reverse", "right", "round", "row_number",
    "row_to_json", "rpad", "rtrim", "scale", "set_bit", "set_byte", "set_masklen",
    "setweight", "sha224", "sha256", "sha384", "sha512", "shobj_description", "sign", "sin",
    "sind", "split_part", "sqrt", "starts_with", "statement_timestamp", "stddev",
    "stddev_pop", "stddev_samp", "string_agg", "string_to_array", "string_to_table",
    "strip", "strpos", "substr", "substring", "sum", "tan", "tand", "text", "textlen",
    "timeofday", "timestamptz", "timezone", "to_ascii", "to_bin", "to_char", "to_date",
    "to_hex", "to_json", "to_jsonb", "to_number", "to_oct", "to_regclass", "to_regtype",
    "to_timestamp", "to_tsquery", "to_tsvector", "transaction_timestamp", "translate",
    "trim_array", "trim_scale", "trunc", "ts_headline", "ts_lexize", "ts_rank",
    "ts_rank_cd", "tsmultirange", "tsrange", "tstzmultirange", "tstzrange", "txid_current",
    "txid_current_if_assigned", "txid_current_snapshot", "unistr", "unnest", "upper",
    "upper_inc", "upper_inf", "uuid_extract_timestamp", "uuid_extract_version", "uuidv4",
    "uuidv7", "var_pop", "var_samp", "variance", "version", "websearch_to_tsquery", "width",
    "width_bucket", "xmlagg", "xpath", "xpath_exists",
];

/// Words that no function can have as its name without quotes, in any version of the server:
/// reserved ones, and syntax that looks like a call; a test asks the server. Not `treat`, which
/// calls a function by the name of a type. Sorted.
#[rustfmt::skip]
pub(super) static NEVER_FUNCTIONS: &[&str] = &[
    "all", "analyse", "analyze", "and", "any", "array", "as", "asc", "asymmetric",
    "between", "bigint", "bit", "boolean", "both", "case", "cast", "char", "character",
    "check", "coalesce", "collate", "column", "constraint", "create", "current_catalog",
    "current_date", "current_role", "current_time", "current_timestamp", "current_user",
    "dec", "decimal", "default", "deferrable", "desc", "distinct", "do", "else", "end",
    "except", "exists", "extract", "false", "fetch", "float", "for", "foreign", "from",
    "grant", "greatest", "group", "grouping", "having", "in", "initially", "inout", "int",
    "integer", "intersect", "interval", "into", "lateral", "leading", "least",
    "limit", "localtime", "localtimestamp", "national", "nchar", "none", "normalize", "not",
    "null", "nullif", "numeric", "offset", "on", "only", "or", "order", "out", "overlay",
    "placing", "position", "precision", "primary", "real", "references", "returning", "row",
    "select", "session_user", "setof", "smallint", "some", "substring", "symmetric",
    "table", "then", "time", "timestamp", "to", "trailing", "trim", "true", "union",
    "unique", "user", "using", "values", "varchar", "variadic", "when", "where", "window",
    "with", "xmlattributes", "xmlconcat", "xmlelement", "xmlexists", "xmlforest",
    "xmlnamespaces", "xmlparse", "xmlpi", "xmlroot", "xmlserialize", "xmltable",
];

/// The functions that leave nothing, as the user has named them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Harmless(Vec<String>);

impl Harmless {
    pub(crate) fn add(&mut self, names: impl IntoIterator<Item = String>) {
        self.0.extend(names);
    }

    fn has(&self, schema: Option<&str>, name: &str) -> bool {
        self.0.iter().any(|entry| match (entry.split_once('.'), schema) {
            (Some((entry_schema, entry)), Some(schema)) => {
                entry_schema.eq_ignore_ascii_case(schema) && matches(entry, name)
            }
            (Some(_), None) => false,
            (None, _) => matches(entry, name),
        })
    }
}

/// A `*` at the end of an entry stands for any end of the name.
fn matches(entry: &str, name: &str) -> bool {
    match entry.strip_suffix('*') {
        Some(start) => {
            name.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start))
        }
        None => entry.eq_ignore_ascii_case(name),
    }
}

/// What a call of this function may leave. `name` is in lower case if it had no quotes;
/// `of_server`: it may be one of PostgreSQL's own.
pub(super) fn call(schema: Option<&str>, name: &str, of_server: bool, harmless: &Harmless) -> Left {
    if of_server && HARMLESS.binary_search(&name).is_ok() || harmless.has(schema, name) {
        return Left::NOTHING;
    }
    if !of_server {
        return Left::UNKNOWN;
    }
    match name {
        // The seed of `random` is a parameter, too.
        "set_config" | "setseed" => Left::SETTINGS,
        "nextval" | "setval" => Left::SEQUENCES,
        "pg_advisory_lock"
        | "pg_advisory_lock_shared"
        | "pg_try_advisory_lock"
        | "pg_try_advisory_lock_shared" => Left::LOCKS,
        // A backup, slots and origins that end with the session, and the connections of dblink.
        "pg_backup_start"
        | "pg_start_backup"
        | "pg_create_logical_replication_slot"
        | "pg_create_physical_replication_slot"
        | "pg_copy_logical_replication_slot"
        | "pg_copy_physical_replication_slot"
        | "pg_replication_origin_session_setup"
        | "dblink_connect"
        | "dblink_connect_u" => Left::BEYOND_RESET,
        _ => Left::UNKNOWN,
    }
}

/// Whether this word, followed by a parenthesis, is no call of a function.
pub(super) fn is_never_function(word: &str) -> bool {
    NEVER_FUNCTIONS.binary_search(&word).is_ok()
}
