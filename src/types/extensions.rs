//! The user's own data that is kept with a connection.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;

/// The user's own data that is kept with a connection, for example a cache of prepared
/// statements: one value per type. From
/// [`PooledConnection::extensions`](crate::PooledConnection::extensions).
///
/// The values are dropped when the connection is closed or detached.
///
/// # Examples
///
/// ```
/// let mut extensions = fairpool::Extensions::new();
/// assert_eq!(extensions.insert(1u32), None);
/// assert_eq!(extensions.insert(2u32), Some(1));
/// assert_eq!(extensions.get::<u32>(), Some(&2));
/// assert_eq!(extensions.get::<String>(), None);
/// ```
#[derive(Default)]
pub struct Extensions(HashMap<TypeId, Box<dyn Any + Send + Sync>>);

impl Extensions {
    /// A set without values.
    pub fn new() -> Extensions {
        Extensions::default()
    }

    /// Inserts a value, and returns the value of this type that it replaces.
    pub fn insert<T: Send + Sync + 'static>(&mut self, value: T) -> Option<T> {
        self.0.insert(TypeId::of::<T>(), Box::new(value)).and_then(unbox)
    }

    /// The value of a type.
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.0.get(&TypeId::of::<T>())?.downcast_ref()
    }

    /// The value of a type, to change it.
    pub fn get_mut<T: Send + Sync + 'static>(&mut self) -> Option<&mut T> {
        self.0.get_mut(&TypeId::of::<T>())?.downcast_mut()
    }

    /// Removes and returns the value of a type.
    pub fn remove<T: Send + Sync + 'static>(&mut self) -> Option<T> {
        self.0.remove(&TypeId::of::<T>()).and_then(unbox)
    }

    /// Drops all values.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes all values, to drop them one by one.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = Box<dyn Any + Send + Sync>> + use<> {
        std::mem::take(&mut self.0).into_values()
    }
}

fn unbox<T: 'static>(value: Box<dyn Any + Send + Sync>) -> Option<T> {
    value.downcast().ok().map(|value| *value)
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Extensions({} values)", self.0.len())
    }
}
