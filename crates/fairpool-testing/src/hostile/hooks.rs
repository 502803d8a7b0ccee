//! The driver and the hooks of a [`World`].

use fairpool::event::{
    AcquireEvent, CheckinEvent, CheckoutEvent, LeakEvent, ReleaseEvent, SelfDeadlockEvent,
    TimeoutEvent,
};
use fairpool::{
    CustomizeConnection, HandleError, HandleEvent, HandleUse, ManageConnection, UseContext,
};

use super::{Call, World};
use crate::stub::{Does, StubError};

/// A connection to a [`World`].
#[derive(Debug)]
pub struct Conn {
    /// The server's number for it.
    pub id: u64,
    world: World,
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.world.close(self.id);
    }
}

/// The driver of a [`World`].
#[derive(Debug)]
pub struct Manager(World);

impl Manager {
    /// A driver that connects to `world`: what a pool is built with.
    pub fn new(world: &World) -> Manager {
        world.count_drivers(1);
        Manager(world.clone())
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.0.count_drivers(-1);
    }
}

fn fails(does: &Does) -> bool {
    matches!(does, Does::Fail | Does::FailForGood)
}

/// Counts an attempt until its end, even by a panic.
struct Attempt<'a> {
    world: &'a World,
    id: u64,
    connected: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.world.end_connect(self.id, self.connected);
    }
}

impl ManageConnection for Manager {
    type Connection = Conn;
    type Error = StubError;

    fn connect(&self) -> Result<Conn, StubError> {
        let world = &self.0;
        let mut attempt = Attempt { world, id: world.begin_connect(), connected: false };
        match world.act(Call::Connect) {
            Does::Fail => Err(StubError::Refused(attempt.id as usize)),
            Does::FailForGood => Err(StubError::WrongPassword),
            _ => {
                attempt.connected = true;
                Ok(Conn { id: attempt.id, world: world.clone() })
            }
        }
    }

    fn is_valid(&self, conn: &mut Conn) -> Result<(), StubError> {
        let failed = fails(&self.0.act_on(Call::IsValid, conn.id));
        if failed { Err(StubError::Invalid) } else { Ok(()) }
    }

    fn has_broken(&self, conn: &mut Conn) -> bool {
        fails(&self.0.act_on(Call::HasBroken, conn.id))
    }

    fn needs_reset(&self, conn: &mut Conn) -> bool {
        fails(&self.0.act_on(Call::NeedsReset, conn.id))
    }

    fn reset(&self, conn: &mut Conn) -> Result<(), StubError> {
        let failed = fails(&self.0.act_on(Call::Reset, conn.id));
        if failed { Err(StubError::ResetFailed) } else { Ok(()) }
    }

    fn is_permanent(&self, error: &StubError) -> bool {
        fails(&self.0.act(Call::IsPermanent)) || *error == StubError::WrongPassword
    }

    fn is_fatal(&self, _: &StubError) -> bool {
        fails(&self.0.act(Call::IsFatal))
    }
}

/// All hooks of a pool: customizer, error handler, event handler and use handler.
#[derive(Clone, Debug)]
pub struct Hooks(pub World);

impl CustomizeConnection<Conn, StubError> for Hooks {
    fn on_acquire(&self, conn: &mut Conn) -> Result<(), StubError> {
        let failed = fails(&self.0.act_on(Call::OnAcquire, conn.id));
        if failed { Err(StubError::Query) } else { Ok(()) }
    }

    fn on_release(&self, conn: Conn) {
        self.0.act_on(Call::OnRelease, conn.id);
        drop(conn);
    }
}

impl HandleUse<Conn, StubError> for Hooks {
    fn begin(&self, conn: &mut Conn, _: &UseContext) -> Result<(), StubError> {
        let failed = fails(&self.0.act_on(Call::BeginUse, conn.id));
        if failed { Err(StubError::Query) } else { Ok(()) }
    }

    fn end(&self, conn: &mut Conn, _: &UseContext) -> Result<(), StubError> {
        let failed = fails(&self.0.act_on(Call::EndUse, conn.id));
        if failed { Err(StubError::Query) } else { Ok(()) }
    }
}

impl HandleError<StubError> for Hooks {
    fn inspect_error(&self, _: &StubError) -> bool {
        !fails(&self.0.act(Call::InspectError))
    }

    fn handle_error(&self, _: StubError) {
        self.0.act(Call::HandleError);
    }
}

impl HandleEvent for Hooks {
    fn handle_acquire(&self, event: AcquireEvent) {
        self.0.acquired(event.connection_id());
    }

    fn handle_release(&self, event: ReleaseEvent) {
        self.0.releasing(event.connection_id());
    }

    fn handle_checkout(&self, _: CheckoutEvent) {
        self.0.act(Call::HandleCheckout);
    }

    fn handle_checkin(&self, _: CheckinEvent) {
        self.0.act(Call::HandleCheckin);
    }

    fn handle_timeout(&self, _: TimeoutEvent) {
        self.0.act(Call::HandleTimeout);
    }

    fn handle_leak(&self, _: LeakEvent) {
        self.0.act(Call::HandleLeak);
    }

    fn handle_leak_end(&self, _: LeakEvent) {
        self.0.act(Call::HandleLeakEnd);
    }

    fn handle_self_deadlock(&self, _: SelfDeadlockEvent) {
        self.0.act(Call::HandleSelfDeadlock);
    }
}

/// An extension of a connection, whose destructor misbehaves.
#[derive(Debug)]
pub struct HostileExtension(pub World);

impl Drop for HostileExtension {
    fn drop(&mut self) {
        self.0.act(Call::ExtensionDrop);
    }
}
