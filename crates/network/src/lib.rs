//! Networks of containers: what a network is, and how a container comes into one and out of it again.
//!
//! The work is done by CNI plug-ins, run as programs by their specification
//! (<https://github.com/containernetworking/cni/blob/spec-v1.0.0/SPEC.md>): `bridge` and `host-local` make interfaces and
//! give addresses, `portmap` publishes ports, `firewall` lets a network's traffic pass and keeps networks apart. This
//! crate composes their configuration ([`conflist`]), calls them ([`cni`]), and remembers what they did so that it
//! can always be undone ([`sandbox`]). It makes no packet filter's rule and no interface by itself.
//!
//! | file | subject |
//! |---|---|
//! | [`definition`] | a network as the user made it, and the directory that holds them |
//! | [`subnet`] | ranges of addresses; which are free |
//! | [`conflist`] | the plug-ins' configuration for a network |
//! | [`cni`] | calling a plug-in |
//! | [`sandbox`] | a container's network namespace: attach, detach, release |
//! | [`connection`], [`publish`] | what flags ask: of a network, and of ports |
//! | [`ports`] | host ports, held for a container |
//! | [`names`] | the lines of `/etc/hosts` by which containers of a network find each other |
//! | [`firewall`] | rules that outlive a network's containers |
//! | `leases` | addresses that are taken, where nobody is there to free them |
//! | [`pasta`] | the network of an ordinary user's container |
//! | [`netlink`] | what addresses the machine has; taking an interface away |
//!
//! It knows no container's row and starts no container: the engine joins it to those.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod cni;
pub mod conflist;
pub mod connection;
pub mod definition;
pub mod firewall;
mod leases;
pub mod names;
pub mod netlink;
pub mod pasta;
pub mod ports;
pub mod publish;
pub mod sandbox;
pub mod subnet;
