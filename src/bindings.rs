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
use crate::listener::bind::bind;
use crate::listener::{ListenSocket, ListenerName};
use crate::worker::Workers;

/// What is bound now.
#[derive(Debug, Default)]
pub struct Bindings(Vec<Binding>);

#[derive(Debug)]
struct Binding {
    /// As configured; the port may be 0.
    address: BindAddress,
    /// With the port that the kernel chose.
    bound: BindAddress,
    listener: ListenerName,
    stop: CancellationToken,
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
}

impl Bindings {
    /// Binds what `listeners` want and is not bound yet. Every address that cannot be bound is
    /// a problem.
    pub fn prepare(
        &self,
        listeners: &[Listener],
        workers: usize,
    ) -> Result<Change, Vec<Diagnostic>> {
        let wanted: Vec<_> = listeners
            .iter()
            .flat_map(|listener| listener.bind.iter().map(move |bind| (&listener.name, bind)))
            .collect();
        let is_wanted = |binding: &Binding| {
            let name = binding.listener.load();
            wanted.iter().any(|(other, bind)| **other == **name && bind.value == binding.address)
        };
        let mut free: Vec<bool> = vec![true; self.0.len()];
        let mut change = Change { kept: Vec::new(), opened: Vec::new() };
        let mut problems = Vec::new();
        for (name, bind_at) in &wanted {
            let address = &bind_at.value;
            let find = |mine: bool| {
                self.0.iter().enumerate().position(|(index, binding)| {
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
            match bind(address, workers) {
                Ok(bound) => change.opened.push(Opened {
                    listener: (*name).clone(),
                    address: address.clone(),
                    bound: bound.address,
                    sockets: bound.sockets,
                }),
                Err(error) => {
                    let problem = Diagnostic::error(bind_at.span, error.to_string());
                    problems.push(problem.help("stop what uses it, or bind another address"));
                }
            }
        }
        if problems.is_empty() { Ok(change) } else { Err(problems) }
    }

    /// Hands new sockets to the workers and closes what is not wanted any more.
    pub async fn apply(&mut self, change: Change, workers: &Workers) {
        let mut before: Vec<Option<Binding>> = self.0.drain(..).map(Some).collect();
        for (index, name) in change.kept {
            let Some(binding) = before.get_mut(index).and_then(Option::take) else { continue };
            if **binding.listener.load() != name {
                binding.listener.store(Arc::new(name));
            }
            self.0.push(binding);
        }
        for opened in change.opened {
            let Opened { listener, address, bound, sockets } = opened;
            let name: ListenerName = Arc::new(ArcSwap::from_pointee(listener.clone()));
            let stop = CancellationToken::new();
            workers.take(sockets, &name, &stop).await;
            tracing::info!(%listener, address = %bound, "listening");
            self.0.push(Binding { address, bound, listener: name, stop });
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
        self.0.iter().map(address).collect()
    }
}

impl Drop for Bindings {
    fn drop(&mut self) {
        self.0.iter().for_each(Binding::remove_file);
    }
}

impl Binding {
    /// A unix socket is a file that nobody else removes.
    fn remove_file(&self) {
        if let BindAddress::Unix(path) = &self.bound {
            let _ = std::fs::remove_file(path);
        }
    }
}
