//! The programs, driven over HTTP, on a real PostgreSQL: an outage is a server that stops. (A file
//! of SQLite has none.)

mod load;
mod outage;
mod page;
mod service;
mod shutdown;

/// Has each of these tests once for each program.
macro_rules! for_each_program {
    ($($module:ident::$test:ident),* $(,)?) => {
        for_each_program!(@ axum "CARGO_BIN_EXE_axum" $($module $test)*);
        for_each_program!(@ actix "CARGO_BIN_EXE_actix" $($module $test)*);
        for_each_program!(@ rocket "CARGO_BIN_EXE_rocket" $($module $test)*);
    };
    (@ $name:ident $executable:literal $($module:ident $test:ident)*) => {
        mod $name {
            $(
                #[test]
                fn $test() {
                    crate::$module::$test(crate::service::Program(env!($executable)));
                }
            )*
        }
    };
}

for_each_program!(
    load::p18_every_request_of_many_clients_is_answered,
    load::p18_under_overload_who_gets_no_connection_is_told_so_and_nothing_else_waits,
    outage::p18_in_an_outage_answers_are_503_at_once_and_after_it_all_is_served_again,
    shutdown::p18_at_sigterm_requests_are_finished_and_the_pool_is_closed,
    shutdown::p18_at_ctrl_c_requests_are_finished_and_the_pool_is_closed,
);
