//! The addresses that are bound, and how a reload changes them.
//!
//! New addresses are bound before the new configuration is published, so that a port that is taken
//! fails the reload and changes nothing; addresses that are not wanted any more are closed after
//! it. An address that goes from one listener to another keeps its sockets.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::config::diagnostics::Diagnostic;
use crate::config::model::{BindAddress, Listener, Name};
use crate::listener::bind::open;
use crate::listener::{Door, Inherited, ListenSocket, ListenerName};
use crate::worker::Workers;

/// What is bound now.
#[derive(Debug)]
pub struct Bindings {
    bound: Vec<Binding>,
    inherited: Inherited,
}

#[derive(Debug)]
struct Binding {
    /// As configured; the port may be 0.
    address: BindAddress,
    /// With the port that the kernel chose.
    bound: BindAddress,
    listener: ListenerName,
    stop: CancellationToken,
    /// Others go on accepting there when this process does not.
    is_lent: bool,
}

/// How to get from what is bound to what is wanted: made before the swap, applied after it.
/// Dropped, it closes what it has bound and changes nothing.
#[derive(Debug)]
pub struct Change {
    /// Indices of bindings that stay, and the listeners that they belong to from now on.
    kept: Vec<(usize, Name)>,
    opened: Vec<Opened>,
}

#[derive(Debug)]
struct Opened {
    listener: Name,
    address: BindAddress,
    bound: BindAddress,
    sockets: Vec<ListenSocket>,
    door: Door,
}

/// Addresses that cannot be bound.
#[derive(Debug, Default)]
pub struct Unbound {
    pub problems: Vec<Diagnostic>,
    /// All of them are in use, which may be over in a moment.
    pub is_in_use: bool,
}

impl Bindings {
    pub fn new(inherited: Inherited) -> Self {
        Self { bound: Vec::new(), inherited }
    }

    /// Inherited sockets that `listeners` have no use for: connections wait there for nobody.
    pub fn unused(&self, listeners: &[Listener]) -> Vec<&BindAddress> {
        let wanted: Vec<_> = listeners.iter().flat_map(|it| &it.bind).map(|it| &it.value).collect();
        self.inherited.unused(&wanted)
    }

    /// Binds what `listeners` want and is not bound yet. Every address that cannot be bound is
    /// a problem.
    pub fn prepare(&self, listeners: &[Listener], workers: usize) -> Result<Change, Unbound> {
        let wanted: Vec<_> = listeners
            .iter()
            .flat_map(|listener| listener.bind.iter().map(move |bind| (&listener.name, bind)))
            .collect();
        let is_wanted = |binding: &Binding| {
            let name = binding.listener.load();
            wanted.iter().any(|(other, bind)| **other == **name && bind.value == binding.address)
        };
        let mut free: Vec<bool> = vec![true; self.bound.len()];
        let mut change = Change { kept: Vec::new(), opened: Vec::new() };
        let mut unbound = Unbound { problems: Vec::new(), is_in_use: true };
        for (name, bind_at) in &wanted {
            let address = &bind_at.value;
            let find = |mine: bool| {
                self.bound.iter().enumerate().position(|(index, binding)| {
                    let is_mine = **binding.listener.load() == **name;
                    let fits = if mine { is_mine } else { !is_wanted(binding) };
                    free[index] && binding.address == *address && fits
                })
            };
            if let Some(index) = find(true).or_else(|| find(false)) {
                free[index] = false;
                change.kept.push((index, (*name).clone()));
                continue;
            }
            match open(address, workers, &self.inherited) {
                Ok((bound, door)) => change.opened.push(Opened {
                    listener: (*name).clone(),
                    address: address.clone(),
                    bound: bound.address,
                    sockets: bound.sockets,
                    door,
                }),
                Err(error) => {
                    let problem = Diagnostic::error(bind_at.span, error.to_string());
                    unbound.problems.push(problem.help(error.help()));
                    unbound.is_in_use &= error.is_in_use();
                }
            }
        }
        if unbound.problems.is_empty() { Ok(change) } else { Err(unbound) }
    }

    /// Hands new sockets to the workers and closes what is not wanted any more.
    pub async fn apply(&mut self, change: Change, workers: &Workers) {
        let mut before: Vec<Option<Binding>> = self.bound.drain(..).map(Some).collect();
        for (index, name) in change.kept {
            let Some(binding) = before.get_mut(index).and_then(Option::take) else { continue };
            if **binding.listener.load() != name {
                binding.listener.store(Arc::new(name));
            }
            self.bound.push(binding);
        }
        for opened in change.opened {
            let Opened { listener, address, bound, sockets, door } = opened;
            let is_lent = door.is_lent();
            let name: ListenerName = Arc::new(ArcSwap::from_pointee(listener.clone()));
            let stop = CancellationToken::new();
            workers.take(sockets, &name, &stop, door).await;
            match is_lent {
                false => tracing::info!(%listener, address = %bound, "listening"),
                true => tracing::info!(%listener, address = %bound, inherited = true, "listening"),
            }
            self.bound.push(Binding { address, bound, listener: name, stop, is_lent });
        }
        for binding in before.into_iter().flatten() {
            tracing::info!(listener = %binding.listener.load(), address = %binding.bound, "closing");
            binding.stop.cancel();
            binding.remove_file();
        }
    }

    /// Every bound address with its listener.
    pub fn addresses(&self) -> Vec<(Name, BindAddress)> {
        let address = |b: &Binding| (Name::clone(&b.listener.load()), b.bound.clone());
        self.bound.iter().map(address).collect()
    }
}

impl Drop for Bindings {
    fn drop(&mut self) {
        self.bound.iter().for_each(Binding::remove_file);
    }
}

impl Binding {
    /// A unix socket of ours is a file that nobody else removes.
    fn remove_file(&self) {
        if let BindAddress::Unix(path) = &self.bound
            && !self.is_lent
        {
            let _ = std::fs::remove_file(path);
        }
    }
}
