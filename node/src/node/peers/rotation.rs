//! Does this node's part of a rotation of the CA, stage by stage, and leads it on where it leads.
//! What it says that it did is on its disk before it says so.

use std::sync::Arc;

use cluster::{CaChange, Command, Role, Stage, State};
use exchange::{Authority, Fingerprint, Kind, NodeId};

use super::authorities::trust_of;
use super::desk::{UNPOISONED, now};
use super::folder::trusted;
use super::{ASK, Keeper, unusable};
use crate::commands::error::CommandError;

impl Keeper {
    /// Looks what there is to be done, and does it.
    pub(super) async fn follow_ca(&mut self) -> Result<(), CommandError> {
        let known = self.desk.cluster.state();
        self.fetch_authorities(&known).await;
        if !self.lacks_something(&known) {
            return Ok(());
        }
        // What this node knows may be long past, after a start above all.
        let Ok(state) = self.desk.cluster.read(ASK).await else { return Ok(()) };
        self.adopt_trust(&state).await?;
        self.fetch_authorities(&state).await;
        if state.authorities().issuing().is_some() {
            self.desk.drop_authorities(&self.desk.trust().fingerprints())?;
        }
        let issuer = self.desk.issuer(&state);
        let is_over = |it: &cluster::Rotation| it.stage != Stage::Trusting;
        if state.authorities().rotation().is_some_and(is_over)
            && self.identity.ca().fingerprint() != issuer
        {
            self.certify(issuer).await?;
        }
        self.say_done(&state).await;
        self.lead_on(&state).await;
        Ok(())
    }

    fn lacks_something(&self, state: &State) -> bool {
        let Some(trust) = trust_of(state) else { return false };
        if trust.is_ok_and(|trust| trust != self.desk.trust()) || self.has_stray_key() {
            return true;
        }
        let Some(rotation) = state.authorities().rotation() else { return false };
        let is_next = rotation.missing(state.roster()).is_empty()
            && rotation.ends().is_none_or(|ends| ends <= now());
        !rotation.has_done(self.card.id) || (is_next && self.desk.cluster.leads())
    }

    fn has_stray_key(&self) -> bool {
        let trusted = self.desk.trust().fingerprints();
        let held = self.desk.authorities.lock().expect(UNPOISONED);
        held.iter().any(|it| !trusted.contains(&it.certificate().fingerprint()))
    }

    /// Trusts whom the group trusts: on disk first, then in handshakes. Where a CA goes, connections
    /// that were made under it are replaced before those that are left of it end.
    async fn adopt_trust(&mut self, state: &State) -> Result<(), CommandError> {
        let Some(trust) = trust_of(state) else { return Ok(()) };
        let trust = trust.map_err(|error| unusable(error.to_string()))?;
        let before = self.desk.trust();
        if trust == before {
            return Ok(());
        }
        self.card.trust = trusted(&trust);
        self.folder.save(&self.card)?;
        self.exchange.trust(&trust);
        let cas = trust.fingerprints();
        *self.desk.trust.lock().expect(UNPOISONED) = trust;
        if before.fingerprints().iter().any(|it| !cas.contains(it)) {
            self.exchange.redial().await;
            self.exchange.recheck();
        }
        tracing::info!(cas = cas.len(), "other CAs are trusted");
        Ok(())
    }

    /// A node that votes keeps the keys of the CAs, so that any of them may let somebody in.
    async fn fetch_authorities(&self, state: &State) {
        if !self.votes(state, self.card.id) {
            return;
        }
        let cas = state.authorities().trusted().into_iter().map(|ca| Fingerprint(ca.key));
        let mut cas: Vec<Fingerprint> = cas.collect();
        if cas.is_empty() {
            cas.push(self.desk.issuer(state));
        }
        for ca in cas {
            if self.desk.authority(ca).is_none() {
                self.fetch_authority(state, ca).await;
            }
        }
    }

    async fn fetch_authority(&self, state: &State, ca: Fingerprint) {
        for other in self.others().into_iter().filter(|it| self.votes(state, it.id)) {
            let asked = ca.0.to_vec().into();
            let asked = self.exchange.call(NodeId(other.id), Kind::AUTHORITY, asked, ASK);
            let Ok(answer) = asked.await else { continue };
            let Ok(authority) = Authority::from_secret(&answer) else { continue };
            if authority.certificate().fingerprint() != ca {
                continue;
            }
            if let Err(error) = self.desk.keep_authority(Arc::new(authority)) {
                tracing::warn!(message = error.message, "could not keep the key of a CA");
            }
            return;
        }
    }

    fn votes(&self, state: &State, id: u64) -> bool {
        state.roster().members().get(&id).is_some_and(|it| it.role == Role::Voter)
    }

    /// Whether what the stage asks of this node is done.
    fn is_done(&self, state: &State, rotation: &cluster::Rotation) -> bool {
        let both = [rotation.from.key, rotation.to.key].map(Fingerprint);
        let trusted = self.desk.trust().fingerprints();
        let trusts = both.iter().all(|ca| trusted.contains(ca));
        match rotation.stage {
            Stage::Trusting => {
                let has_keys = both.iter().all(|ca| self.desk.authority(*ca).is_some());
                trusts && (has_keys || !self.votes(state, self.card.id))
            }
            Stage::Renewing | Stage::Waiting { .. } => {
                trusts && self.identity.ca().fingerprint() == both[1]
            }
        }
    }

    async fn say_done(&self, state: &State) {
        let Some(rotation) = state.authorities().rotation() else { return };
        if rotation.has_done(self.card.id) || !self.is_done(state, rotation) {
            return;
        }
        let change = CaChange::Done { member: self.card.id, turn: rotation.turn };
        match self.desk.cluster.propose(Command::Ca { change }).await {
            Ok(_) => {
                tracing::info!(stage = ?rotation.stage, "did its part of a rotation of the CA")
            }
            Err(error) => tracing::debug!(%error, "could not say that its part is done"),
        }
    }

    async fn lead_on(&self, state: &State) {
        let Some(rotation) = state.authorities().rotation() else { return };
        let is_over = rotation.ends().is_none_or(|ends| ends <= now());
        if !self.desk.cluster.leads() || !is_over || !rotation.missing(state.roster()).is_empty() {
            return;
        }
        let change = CaChange::Step { turn: rotation.turn, at: now(), is_early: false };
        match self.desk.cluster.propose(Command::Ca { change }).await {
            Ok(_) => tracing::info!(over = ?rotation.stage, "a rotation of the CA goes on"),
            Err(error) => tracing::debug!(%error, "a rotation of the CA did not go on yet"),
        }
    }
}
