//! Transfers: the scheduler on a virtual clock, the faults of disks and peers, and names and manifests that mean harm.

mod attacks;
mod faults;
mod huge;
mod swarming;
mod world;
