//! The work: accounts, and a ledger of transfers between them.

use std::time::Duration;

use fairpool::stats::Stats;
use fairpool::{Error, ManageConnection, Pool, PooledConnection};

/// Accounts have the ids `1..=ACCOUNTS`.
pub const ACCOUNTS: i64 = 1000;
/// What each account holds at first.
pub const OPENING_BALANCE: i64 = 1000;

/// A connection of a bank's pools.
pub type Connection<B> = <<<B as Bank>::Pools as Pools>::Manager as ManageConnection>::Connection;

/// Where operations get their connections.
pub trait Pools: Sync {
    type Manager: ManageConnection;

    /// For operations that only read.
    fn read(&self, timeout: Duration) -> Result<PooledConnection<Self::Manager>, Error>;

    /// For operations that write.
    fn write(&self, timeout: Duration) -> Result<PooledConnection<Self::Manager>, Error>;

    /// Of each pool.
    fn stats(&self) -> Vec<Stats>;
}

/// One pool for both.
impl<M: ManageConnection> Pools for Pool<M> {
    type Manager = M;

    fn read(&self, timeout: Duration) -> Result<PooledConnection<M>, Error> {
        self.get_timeout(timeout)
    }

    fn write(&self, timeout: Duration) -> Result<PooledConnection<M>, Error> {
        self.get_timeout(timeout)
    }

    fn stats(&self) -> Vec<Stats> {
        vec![Pool::stats(self)]
    }
}

/// A database with accounts and a ledger in it.
///
/// Creating the value creates both, dropping it removes both.
pub trait Bank: Sync {
    type Pools: Pools;

    /// For the headline, without a password.
    fn name(&self) -> String;

    /// Opens so many connections, within `limit`.
    fn open(&self, connections: u32, limit: Duration) -> Result<Self::Pools, Error>;

    /// A point read: what one account holds.
    fn balance(&self, conn: &mut Connection<Self>, account: i64) -> Result<i64, Failure>;

    /// A small aggregate: the sum of a worker's transfers from number `from` on.
    fn turnover(&self, conn: &mut Connection<Self>, worker: u32, from: i64)
    -> Result<i64, Failure>;

    /// Two balances and a line in the ledger, in one transaction.
    fn transfer(&self, conn: &mut Connection<Self>, transfer: &Transfer) -> Result<(), Failure>;

    /// What could be better about the pools' settings, if the database can tell.
    fn advice(&self, pools: &Self::Pools) -> Option<String> {
        let _ = pools;
        None
    }

    /// What is in the database.
    fn audit(&self, conn: &mut Connection<Self>) -> Result<Audit, Failure>;
}

/// One line of the ledger. Worker and number together identify it.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    pub worker: u32,
    pub number: i64,
    pub payer: i64,
    pub payee: i64,
    pub amount: i64,
}

/// Why an operation failed.
#[derive(Debug)]
pub enum Failure {
    /// The database asks to try again. Nothing was written.
    Contention,
    /// Something unexpected. Nothing was written.
    Driver(String),
    /// The connection was lost between COMMIT and its answer: the transfer may
    /// be in the ledger or not.
    InDoubt(String),
}

/// What the database contains.
#[derive(Debug, Default)]
pub struct Audit {
    pub balance_sum: i64,
    /// Accounts whose balance contradicts the ledger.
    pub wrong_accounts: i64,
    /// One for each worker that has a line in the ledger.
    pub workers: Vec<Written>,
}

/// One worker's part of the ledger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    pub worker: u32,
    pub transfers: i64,
    pub amount: i64,
}
