//! What users and the pool exchange: traits, settings, errors, events and figures.

pub(crate) mod caller;
pub(crate) mod cancel;
pub(crate) mod config;
pub(crate) mod error;
pub(crate) mod error_text;
pub(crate) mod event;
pub(crate) mod extensions;
pub(crate) mod handler;
pub(crate) mod health;
pub(crate) mod holder;
#[cfg(feature = "serde")]
pub(crate) mod json;
pub(crate) mod manage;
pub(crate) mod stats;
pub(crate) mod subscription;
pub mod text;
pub(crate) mod thread;
pub(crate) mod times;

pub use caller::{CallSite, Label};
pub(crate) use caller::{Caller, Place};
pub use cancel::CancelToken;
pub(crate) use cancel::Registration;
pub(crate) use config::Config;
pub use config::{Fairness, SelfDeadlock};
pub(crate) use error::{Cause, NestedList, Report};
pub use error::{Error, ErrorKind};
pub(crate) use error_text::{Chain, ErrorText, text_of_panic};
pub use event::{ConnectionState, Event, EventKind, Reason};
pub use extensions::Extensions;
pub(crate) use handler::ContextValue;
pub use handler::{
    AcquireEvent, CheckinEvent, CheckoutEvent, HandleEvent, HandleUse, HealthEvent, LeakEvent,
    NopEventHandler, ReleaseEvent, SelfDeadlockEvent, TimeoutEvent, UseContext,
};
pub use health::{Health, HealthLevel, HealthThresholds, Readiness};
pub(crate) use holder::known_backend;
pub use holder::{Holder, NestedGet, Waiter};
pub use manage::{
    CallLimits, CustomizeConnection, DriverCount, HandleError, LoggingErrorHandler,
    ManageConnection, NopConnectionCustomizer, NopErrorHandler,
};
pub use stats::{ClosedBy, Stats};
pub use subscription::{ConnectionAt, Scene, Subscription};
pub(crate) use subscription::{EventSource, SubscriberList};
pub(crate) use times::{Recorder, Timed};
