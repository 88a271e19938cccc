//! Which names a step resolved to which addresses.
//!
//! Kept per step, so that one step's lookups never open or label anything for another. Bounded: the oldest address is
//! forgotten first. Entries do not age by their TTL, since programs keep addresses longer than told and a step is short.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Addresses remembered per step: far more than a build resolves, 1 MiB at most.
const MAX_ADDRESSES: usize = 4096;
/// Names remembered per address: front-end servers are shared by many names, the most recent ones count.
const MAX_NAMES_PER_ADDRESS: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Names {
    by_address: HashMap<Ipv4Addr, VecDeque<Arc<str>>>,
    order: VecDeque<Ipv4Addr>,
}

impl Names {
    pub(crate) fn learn(&mut self, address: Ipv4Addr, name: &Arc<str>) {
        if !self.by_address.contains_key(&address) {
            if self.order.len() >= MAX_ADDRESSES
                && let Some(oldest) = self.order.pop_front()
            {
                self.by_address.remove(&oldest);
            }
            self.order.push_back(address);
        }
        let names = self.by_address.entry(address).or_default();
        names.retain(|known| known != name);
        names.push_front(Arc::clone(name));
        names.truncate(MAX_NAMES_PER_ADDRESS);
    }

    /// Names of an address, the one looked up last first.
    pub(crate) fn of(&self, address: Ipv4Addr) -> Vec<Arc<str>> {
        self.by_address
            .get(&address)
            .map(|names| names.iter().cloned().collect())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_bounded_and_recent_first() {
        let mut names = Names::default();
        for i in 0..(MAX_ADDRESSES as u32 + 10) {
            names.learn(Ipv4Addr::from_bits(i), &Arc::from("a"));
        }
        assert_eq!(names.by_address.len(), MAX_ADDRESSES);
        assert!(names.of(Ipv4Addr::from_bits(0)).is_empty());
        let last = Ipv4Addr::from_bits(MAX_ADDRESSES as u32);
        for i in 0..40 {
            names.learn(last, &Arc::from(format!("n{i}")));
        }
        assert_eq!(names.of(last).len(), MAX_NAMES_PER_ADDRESS);
        assert_eq!(&*names.of(last)[0], "n39");
    }
}
