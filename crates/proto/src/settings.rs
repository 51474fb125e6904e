//! The fields of [`QueueSettings`] by name: for changing some of them, and for saying what differs.

use std::fmt::Debug;

use crate::v1::QueueSettings;

/// A field of the settings.
#[derive(Clone, Copy)]
pub struct Field {
    /// Its name in the API, as [`v1::UpdateQueueRequest::fields`](crate::v1::UpdateQueueRequest) has it.
    pub name: &'static str,
    copy: fn(&QueueSettings, &mut QueueSettings),
    shown: fn(&QueueSettings) -> String,
}

impl Field {
    /// Gives `to` the value that `from` has.
    pub fn copy(&self, from: &QueueSettings, to: &mut QueueSettings) {
        (self.copy)(from, to);
    }

    /// The value as text: a number as its digits.
    #[must_use]
    pub fn value(&self, settings: &QueueSettings) -> String {
        (self.shown)(settings)
    }
}

impl Debug for Field {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name)
    }
}

macro_rules! fields {
    ($($name:ident)*) => {
        /// All fields, in the order of their numbers.
        pub const FIELDS: &[Field] = &[$(Field {
            name: stringify!($name),
            copy: |from, to| to.$name.clone_from(&from.$name),
            shown: |settings| format!("{:?}", settings.$name),
        }),*];

        /// A field of the settings that is not listed here does not compile.
        #[allow(dead_code)]
        fn all_are_listed(QueueSettings { $($name: _),* }: QueueSettings) {}
    };
}

fields! {
    replicas max_messages max_bytes max_deliveries lease_ms session_grace_ms dedup_age_ms min_in_sync in_sync_lag_ms
    retain_ms retain_bytes ttl_ms overflow priorities retry_ms retry_max_ms single_active dead_letter message_id_window
    filter_header
}

/// The field of this name.
#[must_use]
pub fn field(name: &str) -> Option<Field> {
    FIELDS.iter().find(|field| field.name == name).copied()
}

/// The fields whose values differ.
#[must_use]
pub fn differing(one: &QueueSettings, other: &QueueSettings) -> Vec<Field> {
    FIELDS.iter().filter(|field| field.value(one) != field.value(other)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_copied_alone_and_found_to_differ() {
        let new = QueueSettings { max_bytes: 7, lease_ms: 9, ..QueueSettings::default() };
        let mut settings = QueueSettings { lease_ms: 5, ..QueueSettings::default() };
        field("max_bytes").unwrap().copy(&new, &mut settings);
        assert_eq!((settings.max_bytes, settings.lease_ms), (7, 5));
        let differing = differing(&settings, &new);
        let shown: Vec<_> =
            differing.iter().map(|field| (field.name, field.value(&settings))).collect();
        assert_eq!(shown, [("lease_ms", "5".to_owned())]);
        assert!(field("max_byte").is_none());
    }
}
