//! Traces where there are none: simulated nodes have no collector, and nothing that would depend on one.

use std::sync::Arc;

use quorate_machine::queue::{Attach, Run, Token};
use quorate_proto::v1;
use quorate_storage::Identity;

use crate::config::{ConfigError, TelemetryConfig};
use crate::queue::Queue;
use crate::refusal::Refusal;

pub(crate) struct Telemetry;

/// Never there.
pub(crate) enum Publishing {}

/// Never there.
pub(crate) enum Settling {}

pub(crate) struct Deliveries;

impl Telemetry {
    #[allow(clippy::unnecessary_wraps, reason = "the real one can fail")]
    pub(crate) fn start(_: &TelemetryConfig, _: &Identity) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    pub(crate) fn arrived(&self, _: &Arc<Queue>, _: &v1::Frame) -> Option<Box<Publishing>> {
        None
    }

    pub(crate) fn deliveries(&self, _: &Arc<Queue>, _: &Attach) -> Deliveries {
        Deliveries
    }

    pub(crate) async fn close(&self) {}
}

impl Publishing {
    pub(crate) fn submitted(&mut self) {
        match *self {}
    }

    pub(crate) fn committed(&mut self) {
        match *self {}
    }

    pub(crate) fn answered(&mut self, _: &Result<v1::Receipt, Refusal>) {
        match *self {}
    }
}

impl Deliveries {
    pub(crate) fn now(&self) -> u64 {
        0
    }

    pub(crate) fn delivered(&self, _: u64, _: Token, _: Run, _: &v1::Frame) {}

    pub(crate) fn given_back(&self) {}

    pub(crate) fn settling(&self, _: &[v1::SettleItem]) -> Option<Settling> {
        None
    }
}

impl Settling {
    pub(crate) fn answered(self, _: &v1::Settled) {
        match self {}
    }

    pub(crate) fn settled(self, _: &Result<Vec<v1::OffsetRange>, Refusal>) {
        match self {}
    }
}
