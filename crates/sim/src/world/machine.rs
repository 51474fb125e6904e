//! Machines of an application under test.

use madsim::net::NetSim;
use madsim::runtime::{Handle, NodeHandle};

use super::Cluster;

/// A machine that runs a program of the application. Its program begins anew whenever the machine
/// is started again.
pub struct Machine {
    machine: NodeHandle,
    runtime: Handle,
}

impl Cluster {
    /// A machine in the cluster's network that runs `program`, now and whenever it is started again.
    pub fn machine<F>(&self, name: &str, program: impl Fn() -> F + Send + Sync + 'static) -> Machine
    where
        F: Future<Output = ()> + 'static,
    {
        let machine = self.client_machine_with(name, program);
        Machine { machine, runtime: self.runtime().clone() }
    }
}

impl Machine {
    /// Ends its program at once, wherever it is, as `kill -9` does.
    pub fn kill(&self) {
        self.runtime.kill(self.machine.id());
    }

    /// Starts its program again.
    pub fn start_again(&self) {
        self.runtime.restart(self.machine.id());
    }

    /// Stops its program without ending it.
    pub fn pause(&self) {
        self.runtime.pause(self.machine.id());
    }

    /// Lets its program go on.
    pub fn resume(&self) {
        self.runtime.resume(self.machine.id());
    }

    /// Cuts it off from everything.
    pub fn isolate(&self) {
        NetSim::current().clog_node(self.machine.id());
    }

    /// Joins it again.
    pub fn rejoin(&self) {
        NetSim::current().unclog_node(self.machine.id());
    }
}
