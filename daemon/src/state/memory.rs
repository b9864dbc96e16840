//! A store for tests.

use super::{Event, Record, Store, StoreError};
use jiff::Timestamp;
use std::sync::{Mutex, PoisonError};

/// Keeps events in memory. The clock is the number of the event, so that tests are the same every time.
#[derive(Debug, Default)]
pub struct MemoryStore {
    records: Mutex<Vec<Record>>,
}

impl MemoryStore {
    /// A store that already holds `records`.
    #[must_use]
    pub fn holding(records: Vec<Record>) -> Self {
        MemoryStore { records: Mutex::new(records) }
    }
}

impl Store for MemoryStore {
    fn append(&self, event: &Event) -> Result<Record, StoreError> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let seq = records.len() as u64 + 1;
        let at = Timestamp::from_second(i64::try_from(seq).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX);
        let record = Record { seq, at, event: event.clone() };
        records.push(record.clone());
        Ok(record)
    }

    fn load(&self) -> Result<Vec<Record>, StoreError> {
        Ok(self.records.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}
