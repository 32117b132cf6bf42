//! Packages: a deploy is acknowledged when a quorum keeps its package (CLU-3), and whoever lacks one
//! asks the others for it.

use std::collections::BTreeSet;

use cluster::{Command, State};

use super::{Event, FleetEvent, World};
use crate::sim::Bug;
use crate::sim::cluster::application;

/// How long somebody waits for a deploy, in microseconds.
const DEPLOY_PATIENCE: u64 = 1_500_000;

/// A deploy on its way.
#[derive(Debug)]
pub(super) struct Deploying {
    home: usize,
    process: u64,
    begun: u64,
    /// Members that keep the package.
    by: BTreeSet<u64>,
    /// Who votes, as far as its machine knows.
    electorate: BTreeSet<u64>,
    is_proposed: bool,
    /// Whether its machine has applied it: it is acknowledged when a quorum of whoever votes by then
    /// keeps the package.
    is_applied: bool,
    /// How many voted where it is in the log.
    voters: usize,
}

impl Deploying {
    /// Whether a quorum keeps the package, as far as its machine knows who votes.
    fn has_quorum(&self) -> bool {
        let keep = self.by.intersection(&self.electorate).count();
        self.electorate.len() / 2 < keep
    }
}

/// The package of a deploy.
fn package_of(command: &Command) -> Option<u64> {
    let Command::Deploy { app, .. } = command else { return None };
    app.functions["f0"].package.strip_prefix('p')?.parse().ok()
}

/// The packages of what runs.
fn running(state: &State) -> BTreeSet<u64> {
    let functions = state.apps().values().flat_map(|app| app.functions.values());
    functions.filter_map(|it| it.package.strip_prefix('p')?.parse().ok()).collect()
}

impl World {
    /// Somebody deploys another revision at this machine.
    pub(super) fn deploy(&mut self, home: usize) -> Result<(), String> {
        let process = self.process(home);
        let machine = &mut self.fleet.machines[home];
        let Some(member) = &machine.raft.process else { return Ok(()) };
        let electorate = member.group.members().voters().clone();
        self.fleet.next_package += 1;
        let package = self.fleet.next_package;
        machine.packages.insert(package);
        let id = machine.raft.id;
        self.fleet.keepers.insert(package, [id].into());
        let (begun, by) = (self.now, [id].into());
        let deploying = Deploying {
            home,
            process,
            begun,
            by,
            electorate,
            is_proposed: false,
            is_applied: false,
            voters: 0,
        };
        self.fleet.deploys.insert(package, deploying);
        self.send_package(home, package);
        self.propose_deploy(package)
    }

    fn send_package(&mut self, home: usize, package: u64) {
        for to in 0..self.fleet.machines.len() {
            if to != home && self.fleet.machines[to].raft.id != 0 {
                let event = FleetEvent::Package { home: to, package, from: home };
                let delay = 500 + self.fleet.network.draw(20_000);
                self.at(self.now + delay, Event::Fleet(event));
            }
        }
    }

    /// A package reaches a machine: what it says it keeps is durable.
    pub(super) fn keep_package(
        &mut self,
        home: usize,
        package: u64,
        from: usize,
    ) -> Result<(), String> {
        if !self.fleet.machines[home].is_up() || !self.carries(from, home) {
            return Ok(());
        }
        let machine = &mut self.fleet.machines[home];
        machine.packages.insert(package);
        let by = machine.raft.id;
        self.fleet.keepers.entry(package).or_default().insert(by);
        self.wake(home);
        let process = self.process(from);
        let event = FleetEvent::Kept { home: from, process, package, by };
        self.after(200, 2_000, Event::Fleet(event));
        Ok(())
    }

    pub(super) fn package_kept(
        &mut self,
        home: usize,
        package: u64,
        by: u64,
    ) -> Result<(), String> {
        let arrives = self.fleet.home_of(by).is_some_and(|sender| self.carries(sender, home));
        let Some(deploying) = self.fleet.deploys.get_mut(&package).filter(|_| arrives) else {
            return Ok(());
        };
        deploying.by.insert(by);
        match deploying.is_applied {
            true => self.acknowledge_deploy(package),
            false => self.propose_deploy(package),
        }
    }

    /// The package is where it has to be: now the cluster may agree on it.
    fn propose_deploy(&mut self, package: u64) -> Result<(), String> {
        let Some(it) = self.fleet.deploys.get_mut(&package) else { return Ok(()) };
        let is_kept = it.has_quorum() || self.bug == Some(Bug::DeployedEarly);
        if !is_kept || it.is_proposed {
            return Ok(());
        }
        it.is_proposed = true;
        let (home, process) = (it.home, it.process);
        if !self.runs(home, process) {
            return Ok(());
        }
        let app = application(&self.plan, package);
        let at = bus::Timestamp(self.now.cast_signed());
        let command = Command::Deploy { name: "sim".to_owned(), app, expects: None, at };
        self.propose(home, &command).map(drop)
    }

    /// Somebody is the first to apply a deploy.
    pub(super) fn deploy_agreed(&mut self, command: &Command) {
        let voters = self.fleet.judge.group().1.voters.len();
        if let Some(it) = package_of(command).and_then(|it| self.fleet.deploys.get_mut(&it)) {
            it.voters = voters;
        }
    }

    /// Its machine has applied a deploy, and knows who votes at that place of the log.
    pub(super) fn deployed(&mut self, command: &Command) -> Result<(), String> {
        let Some(package) = package_of(command) else { return Ok(()) };
        let Some(it) = self.fleet.deploys.get_mut(&package) else { return Ok(()) };
        let home = it.home;
        let process = self.fleet.machines[home].raft.process.as_ref();
        let voters = process.map(|it| it.group.members().voters().clone()).unwrap_or_default();
        it.is_applied = true;
        if it.electorate != voters {
            it.electorate = voters;
            self.send_package(home, package);
        }
        self.acknowledge_deploy(package)
    }

    /// CLU-3: whoever deployed is told that it is done.
    fn acknowledge_deploy(&mut self, package: u64) -> Result<(), String> {
        let fleet = &mut self.fleet;
        let is_early = self.bug == Some(Bug::DeployedEarly);
        let is_done = |it: &Deploying| it.is_applied && (it.has_quorum() || is_early);
        if !fleet.deploys.get(&package).is_some_and(is_done) {
            return Ok(());
        }
        let voters = fleet.deploys.remove(&package).map_or(0, |it| it.voters);
        fleet.life.deploys += 1;
        fleet.roll.checks += 1;
        let (_, group) = fleet.judge.group();
        // A disk that was lost since, or a member that went, had it; who only learns has no vote.
        let keepers = fleet.keepers.remove(&package).unwrap_or_default();
        let keeps = keepers.difference(&group.learners).count();
        // Whoever has come since fetches it.
        let voters = voters.min(group.voters.len());
        if keeps <= (voters - 1) / 2 {
            return Err(format!(
                "CLU-3: package {package} of an acknowledged deploy is on {keeps} of {voters}"
            ));
        }
        fleet.kept.insert(package);
        Ok(())
    }

    /// CLU-3: what was acknowledged and runs is somewhere, whoever has lost a disk since.
    pub(super) fn demand_packages(&mut self) -> Result<(), String> {
        let newest = self.newest();
        let needed = newest.map(|mind| running(&mind.state)).unwrap_or_default();
        for package in needed.intersection(&self.fleet.kept) {
            self.fleet.roll.checks += 1;
            if !self.fleet.machines.iter().any(|it| it.packages.contains(package)) {
                return Err(format!("CLU-3: package {package} is lost"));
            }
        }
        // Whoever deployed has given up.
        let now = self.now;
        self.fleet.deploys.retain(|_, it| now < it.begun + DEPLOY_PATIENCE);
        Ok(())
    }

    /// A machine that lacks what it is to run asks somebody for it.
    pub(super) fn fetch_missing(&mut self, home: usize) {
        let machine = &self.fleet.machines[home];
        let Some(mind) = &machine.mind else { return };
        let needed = running(&mind.state);
        let Some(package) = needed.difference(&machine.packages).next().copied() else { return };
        let others = self.fleet.machines.len() as u64;
        let asked = self.fleet.network.draw(others) as usize;
        if asked != home {
            let event = FleetEvent::Want { home: asked, package, by: home };
            self.after(200, 2_000, Event::Fleet(event));
        }
    }

    pub(super) fn want_package(
        &mut self,
        home: usize,
        package: u64,
        by: usize,
    ) -> Result<(), String> {
        let machine = &self.fleet.machines[home];
        if machine.is_up() && machine.packages.contains(&package) && self.carries(by, home) {
            let event = FleetEvent::Package { home: by, package, from: home };
            self.after(500, 5_000, Event::Fleet(event));
        }
        Ok(())
    }
}
