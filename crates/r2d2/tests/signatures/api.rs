// `pool` is r2d2 or the drop-in. Every name of the root is imported from a glob, as diesel
// exports them: one name more could clash with a user's own.

use std::error::Error as StdError;
use std::fmt::{self, Debug, Display};
use std::ops::{Deref, DerefMut};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use scheduled_thread_pool::ScheduledThreadPool;

use pool::event::{AcquireEvent, CheckinEvent, CheckoutEvent, ReleaseEvent, TimeoutEvent};
use pool::*;

/// Neither `Send` nor `Sync`, as r2d2 allows.
#[derive(Debug)]
pub struct LocalError(#[allow(dead_code)] Rc<()>);

impl Display for LocalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no server")
    }
}

impl StdError for LocalError {}

#[derive(Debug)]
pub struct Manager {
    fails: bool,
}

impl ManageConnection for Manager {
    type Connection = String;
    type Error = LocalError;

    fn connect(&self) -> Result<String, LocalError> {
        if self.fails { Err(LocalError(Rc::new(()))) } else { Ok("fresh".to_string()) }
    }

    fn is_valid(&self, conn: &mut String) -> Result<(), LocalError> {
        conn.push('!');
        Ok(())
    }

    fn has_broken(&self, _: &mut String) -> bool {
        false
    }
}

/// A manager that is not `Debug`, of a connection that is neither `Debug` nor `Sync`.
struct Bare;

struct BareConnection(#[allow(dead_code)] std::cell::Cell<u8>);

impl ManageConnection for Bare {
    type Connection = BareConnection;
    type Error = fmt::Error;

    fn connect(&self) -> Result<BareConnection, fmt::Error> {
        Ok(BareConnection(std::cell::Cell::new(0)))
    }

    fn is_valid(&self, _: &mut BareConnection) -> Result<(), fmt::Error> {
        Ok(())
    }

    fn has_broken(&self, _: &mut BareConnection) -> bool {
        false
    }
}

#[derive(Debug)]
struct Hook;

impl<C: Send + 'static, E: StdError + 'static> CustomizeConnection<C, E> for Hook {}

impl<E> HandleError<E> for Hook {
    fn handle_error(&self, _: E) {}
}

impl HandleEvent for Hook {}

/// Whatever an error is, as generic code over managers asks.
#[derive(Debug)]
struct Any;

impl<E: StdError + 'static> HandleError<E> for Any {
    fn handle_error(&self, error: E) {
        let _: Box<dyn StdError> = Box::new(error);
    }
}

fn is_shared<T: Send + Sync>() {}
fn is_sent<T: Send>() {}
fn is_static<T: 'static>() {}
fn is_unwind_safe<T: UnwindSafe + RefUnwindSafe>() {}
fn is_copy<T: Copy + Clone + Debug + Send + Sync + 'static>() {}
fn is_debug<T: Debug>() {}
fn is_cloned<T: Clone>() {}

type ErrorHandler<M> = Box<dyn HandleError<<M as ManageConnection>::Error>>;
type Customizer<M> = Box<
    dyn CustomizeConnection<<M as ManageConnection>::Connection, <M as ManageConnection>::Error>,
>;

/// For every manager there is, as a wrapper has it.
fn of_any<M: ManageConnection>() {
    let _: fn(M) -> Result<Pool<M>, Error> = Pool::new;
    let _: fn() -> Builder<M> = Pool::builder;
    let _: fn(&Pool<M>) -> Result<PooledConnection<M>, Error> = Pool::get;
    let _: fn(&Pool<M>, Duration) -> Result<PooledConnection<M>, Error> = Pool::get_timeout;
    let _: fn(&Pool<M>) -> Option<PooledConnection<M>> = Pool::try_get;
    let _: fn(&Pool<M>) -> State = Pool::state;
    let _: fn(&Pool<M>) -> u32 = Pool::max_size;
    let _: fn(&Pool<M>) -> Option<u32> = Pool::min_idle;
    let _: fn(&Pool<M>) -> bool = Pool::test_on_check_out;
    let _: fn(&Pool<M>) -> Option<Duration> = Pool::max_lifetime;
    let _: fn(&Pool<M>) -> Option<Duration> = Pool::idle_timeout;
    let _: fn(&Pool<M>) -> Duration = Pool::connection_timeout;

    let _: fn() -> Builder<M> = Builder::new;
    let _: fn() -> Builder<M> = Builder::default;
    let _: fn(Builder<M>, u32) -> Builder<M> = Builder::max_size;
    let _: fn(Builder<M>, Option<u32>) -> Builder<M> = Builder::min_idle;
    let _: fn(Builder<M>, Arc<ScheduledThreadPool>) -> Builder<M> = Builder::thread_pool;
    let _: fn(Builder<M>, bool) -> Builder<M> = Builder::test_on_check_out;
    let _: fn(Builder<M>, Option<Duration>) -> Builder<M> = Builder::max_lifetime;
    let _: fn(Builder<M>, Option<Duration>) -> Builder<M> = Builder::idle_timeout;
    let _: fn(Builder<M>, Duration) -> Builder<M> = Builder::connection_timeout;
    let _: fn(Builder<M>, ErrorHandler<M>) -> Builder<M> = Builder::error_handler;
    let _: fn(Builder<M>, Box<dyn HandleEvent>) -> Builder<M> = Builder::event_handler;
    let _: fn(Builder<M>, Customizer<M>) -> Builder<M> = Builder::connection_customizer;
    let _: fn(Builder<M>, M) -> Result<Pool<M>, Error> = Builder::build;
    let _: fn(Builder<M>, M) -> Pool<M> = Builder::build_unchecked;

    let _: for<'a> fn(&'a PooledConnection<M>) -> &'a Extensions = PooledConnection::extensions;
    let _: for<'a> fn(&'a mut PooledConnection<M>) -> &'a mut Extensions =
        PooledConnection::extensions_mut;
    let _: for<'a> fn(&'a PooledConnection<M>) -> &'a M::Connection = PooledConnection::deref;
    let _: for<'a> fn(&'a mut PooledConnection<M>) -> &'a mut M::Connection =
        PooledConnection::deref_mut;

    is_cloned::<Pool<M>>();
    is_shared::<Pool<M>>();
    is_static::<Pool<M>>();
    is_debug::<Builder<M>>();
    is_sent::<PooledConnection<M>>();
    let _ = Builder::<M>::new().error_handler(Box::new(NopErrorHandler));
    let _ = Builder::<M>::new().error_handler(Box::new(LoggingErrorHandler));
    let _ = Builder::<M>::new().error_handler(Box::new(Any));
    let _ = Builder::<M>::new().connection_customizer(Box::new(NopConnectionCustomizer));
}

pub fn api() {
    of_any::<Manager>();
    of_any::<Bare>();
    is_debug::<Pool<Manager>>();
    is_debug::<PooledConnection<Manager>>();
    is_shared::<PooledConnection<Manager>>();
    is_copy::<NopErrorHandler>();
    is_copy::<LoggingErrorHandler>();
    is_copy::<NopConnectionCustomizer>();
    is_copy::<NopEventHandler>();
    is_shared::<Error>();
    is_static::<Error>();
    is_unwind_safe::<Error>();
    is_shared::<Extensions>();
    is_debug::<State>();
    is_shared::<State>();
    let _: fn(&State) -> (u32, u32) = |state| (state.connections, state.idle_connections);
    let _: fn(&State) -> u32 = |State { connections, .. }| *connections;

    let _: fn(&AcquireEvent) -> u64 = AcquireEvent::connection_id;
    let _: fn(&ReleaseEvent) -> u64 = ReleaseEvent::connection_id;
    let _: fn(&ReleaseEvent) -> Duration = ReleaseEvent::age;
    let _: fn(&CheckoutEvent) -> u64 = CheckoutEvent::connection_id;
    let _: fn(&CheckoutEvent) -> Duration = CheckoutEvent::duration;
    let _: fn(&TimeoutEvent) -> Duration = TimeoutEvent::timeout;
    let _: fn(&CheckinEvent) -> u64 = CheckinEvent::connection_id;
    let _: fn(&CheckinEvent) -> Duration = CheckinEvent::duration;
    is_debug::<(AcquireEvent, ReleaseEvent, CheckoutEvent, TimeoutEvent, CheckinEvent)>();
    is_shared::<(AcquireEvent, ReleaseEvent, CheckoutEvent, TimeoutEvent, CheckinEvent)>();
    let _: fn(&Hook, AcquireEvent) = HandleEvent::handle_acquire;
    let _: fn(&Hook, ReleaseEvent) = HandleEvent::handle_release;
    let _: fn(&Hook, CheckoutEvent) = HandleEvent::handle_checkout;
    let _: fn(&Hook, TimeoutEvent) = HandleEvent::handle_timeout;
    let _: fn(&Hook, CheckinEvent) = HandleEvent::handle_checkin;
    let _: fn(&Hook, &mut u8) -> Result<(), fmt::Error> = CustomizeConnection::on_acquire;
    let _: fn(&Hook, u8) = <Hook as CustomizeConnection<u8, fmt::Error>>::on_release;
    let _: fn(&Hook, Rc<()>) = HandleError::handle_error;
    let _: &dyn pool::event::HandleEvent = &Hook;
    let _: &dyn HandleError<Rc<()>> = &Hook;
    let _: &dyn CustomizeConnection<Rc<()>, Rc<()>> = &NopConnectionCustomizer;
    let _: &dyn ManageConnection<Connection = String, Error = LocalError> =
        &Manager { fails: false };

    let mut extensions = Extensions::new();
    assert_eq!(extensions.insert(1u8), None);
    assert_eq!(extensions.insert(2u8), Some(1));
    assert_eq!(extensions.get::<u8>(), Some(&2));
    assert_eq!(extensions.get_mut::<u16>(), None);
    assert_eq!(extensions.remove(), Some(2u8));
    extensions.clear();
    let _ = Extensions::default();
}

/// The defaults, and what is printed.
pub fn texts() -> Vec<String> {
    let mut texts = vec![format!("{:?}", Builder::<Manager>::new())];
    let short = Duration::from_millis(100);
    let builder = Pool::builder()
        .max_size(1)
        .min_idle(Some(1))
        .max_lifetime(None)
        .idle_timeout(Some(Duration::from_secs(60 * 60 * 24 * 365 * 200)))
        .connection_timeout(short)
        .error_handler(Box::new(Hook))
        .event_handler(Box::new(Hook))
        .connection_customizer(Box::new(Hook));
    texts.push(format!("{builder:#?}"));
    let pool = builder.build(Manager { fails: false }).expect("a connection");
    texts.push(format!("{pool:#?}"));
    texts.push(format!("{:?} {:?}", pool.min_idle(), pool.idle_timeout()));
    let held = pool.get().expect("it is idle");
    texts.push(format!("{held:?} {:#?}", pool.state()));
    texts.extend(texts_of(pool.get_timeout(Duration::from_millis(1)).expect_err("held")));
    assert!(pool.try_get().is_none());
    drop((held, pool));

    let failing = || Pool::builder().connection_timeout(short).error_handler(Box::new(Hook));
    let error = failing().build(Manager { fails: true }).map(drop);
    texts.extend(texts_of(error.expect_err("it cannot connect")));
    let pool = failing().build_unchecked(Manager { fails: true });
    texts.extend(texts_of(pool.get().map(drop).expect_err("it cannot connect")));
    let pool = Pool::builder()
        .max_size(2_000_000)
        .min_idle(Some(0))
        .max_lifetime(Some(Duration::from_secs(u64::from(u32::MAX) * 10)))
        .test_on_check_out(false)
        .build(Manager { fails: false })
        .expect("nothing is opened");
    texts.push(format!("{pool:?} {:?}", pool.max_lifetime()));
    texts
}

#[allow(deprecated)]
fn texts_of(error: Error) -> Vec<String> {
    assert!(error.source().is_none());
    vec![
        format!("{error}"),
        format!("{error:#}"),
        format!("{error:?}"),
        error.description().to_string(),
    ]
}

/// What bad settings panic with.
pub fn panics() -> Vec<String> {
    let builder = Pool::<Manager>::builder;
    let zero = Duration::ZERO;
    let attempts: Vec<Box<dyn FnOnce() + UnwindSafe>> = vec![
        Box::new(move || drop(builder().max_size(0))),
        Box::new(move || drop(builder().max_lifetime(Some(zero)))),
        Box::new(move || drop(builder().idle_timeout(Some(zero)))),
        Box::new(move || drop(builder().connection_timeout(zero))),
        Box::new(move || {
            let builder = builder().max_size(1).min_idle(Some(2));
            drop(builder.build_unchecked(Manager { fails: false }));
        }),
    ];
    let text_of = |attempt| {
        let panic = std::panic::catch_unwind(attempt).expect_err("a panic");
        let text = panic.downcast_ref::<String>().cloned();
        // Of `assert_ne`, the values follow.
        let text = text.or_else(|| panic.downcast_ref().map(|text: &&str| text.to_string()));
        text.expect("a text").replace("Some(0s)", "Some(0ns)")
    };
    attempts.into_iter().map(text_of).collect()
}
