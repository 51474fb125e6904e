//! Machines of an application under test.

use madsim::net::NetSim;
use madsim::runtime::Handle;
use madsim::task::NodeId;

use super::Cluster;

/// A machine that runs a program of the application. Its program begins anew whenever the machine
/// is started again.
#[derive(Clone, Copy)]
pub struct Machine(NodeId);

impl Cluster {
    /// A machine in the cluster's network that runs `program`, now and whenever it is started again.
    pub fn machine<F>(&self, name: &str, program: impl Fn() -> F + Send + Sync + 'static) -> Machine
    where
        F: Future<Output = ()> + 'static,
    {
        Machine(self.client_machine_with(name, program).id())
    }
}

impl Machine {
    /// Ends its program at once, wherever it is, as `kill -9` does.
    pub fn kill(&self) {
        Handle::current().kill(self.0);
    }

    /// Starts its program again.
    pub fn start_again(&self) {
        Handle::current().restart(self.0);
    }

    /// Stops its program without ending it.
    pub fn pause(&self) {
        Handle::current().pause(self.0);
    }

    /// Lets its program go on.
    pub fn resume(&self) {
        Handle::current().resume(self.0);
    }

    /// Cuts it off from everything.
    pub fn isolate(&self) {
        NetSim::current().clog_node(self.0);
    }

    /// Joins it again.
    pub fn rejoin(&self) {
        NetSim::current().unclog_node(self.0);
    }
}
