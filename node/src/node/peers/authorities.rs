//! The cluster's CAs at this node: the keys of them that it has, what it certifies with, and what
//! an operator asks of a rotation. The steps of one are replicated state; keys only ever cross
//! between nodes that vote, and lie in files of their owner.

use std::sync::Arc;
use std::time::Duration;

use cluster::{Ca, CaChange, Command, Error, Refused, Role, Rotation, Stage, State};
use exchange::{
    Answer, Authority, Bridge, CaCertificate, Fingerprint, KeyError, Life, PublicKey, Trust,
};
use gateway::api::{API, CaInfo, CaRole, CaStatus, OutdatedToken, RotationInfo, RotationStage};
use live::TokenId;
use serde::{Deserialize, Serialize};

use super::Peers;
use super::desk::{Desk, Renewal, certificate_life, name_of, now};
use super::members::{Failure, Order, of_cluster};
use crate::commands::error::{CommandError, exit};
use crate::node::status::rfc3339;

/// How long the CA of a cluster holds: ten years.
pub(crate) const CA_S: u64 = 10 * 365 * 24 * 3_600;
/// How long the leader may take to know what is agreed on.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an operator wants of the CA.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum CaOrder {
    /// Another one, with both trusted for so many seconds once all nodes have its certificate.
    Rotate(u64),
    /// The window ends now.
    Finish,
    /// Back to the one that was to go.
    Abort,
}

/// Whom the state says to trust; nobody before the first rotation.
pub(super) fn trust_of(state: &State) -> Option<Result<Trust, KeyError>> {
    let cas = state.authorities().trusted();
    if cas.is_empty() {
        return None;
    }
    let certificates = cas.iter().map(|ca| CaCertificate::new(ca.certificate.clone()));
    let certificates: Result<Vec<_>, _> = certificates.collect();
    let trust = certificates.and_then(Trust::new);
    let bridges = match state.authorities().rotation() {
        None => Vec::new(),
        Some(_) => {
            let bridge = |ca: &&Ca| Bridge { of: Fingerprint(ca.key), der: ca.bridge.clone() };
            cas.iter().map(bridge).collect()
        }
    };
    Some(trust.map(|trust| trust.with_bridges(bridges)))
}

impl Desk {
    pub(super) fn trust(&self) -> Trust {
        self.trust.lock().expect(super::desk::UNPOISONED).clone()
    }

    /// The CA that certifies now, and that tokens name.
    pub(super) fn issuer(&self, state: &State) -> Fingerprint {
        let issuing = state.authorities().issuing().map(Fingerprint);
        // Before the first rotation there is one.
        issuing.unwrap_or_else(|| self.trust().cas()[0].fingerprint())
    }

    /// A CA's key, where this node has it.
    pub(super) fn authority(&self, ca: Fingerprint) -> Option<Arc<Authority>> {
        let held = self.authorities.lock().expect(super::desk::UNPOISONED);
        held.iter().find(|it| it.certificate().fingerprint() == ca).cloned()
    }

    /// Keeps one more key, on disk first.
    pub(super) fn keep_authority(&self, authority: Arc<Authority>) -> Result<(), CommandError> {
        let mut held = self.authorities.lock().expect(super::desk::UNPOISONED);
        let new = authority.certificate().fingerprint();
        let mut all = held.clone();
        if all.iter().all(|it| it.certificate().fingerprint() != new) {
            all.push(authority);
        }
        self.folder.save_authorities(&all)?;
        *held = all;
        Ok(())
    }

    /// Forgets the keys of CAs that are not trusted any more, on disk too.
    pub(super) fn drop_authorities(&self, trusted: &[Fingerprint]) -> Result<(), CommandError> {
        // One that is being made is not agreed on yet.
        let Ok(_drafting) = self.drafting.try_lock() else { return Ok(()) };
        let mut held = self.authorities.lock().expect(super::desk::UNPOISONED);
        let is_trusted = |it: &Arc<Authority>| trusted.contains(&it.certificate().fingerprint());
        let kept: Vec<_> = held.iter().filter(|it| is_trusted(it)).cloned().collect();
        if kept.len() < held.len() && !kept.is_empty() {
            self.folder.save_authorities(&kept)?;
            *held = kept;
        }
        Ok(())
    }

    /// The CA's key is for those who vote, so that a joiner finds somebody whoever is gone.
    pub(super) fn give_authority(&self, from: u64, asked: &[u8]) -> Answer {
        let state = self.cluster.state();
        let is_voter = state.roster().members().get(&from).is_some_and(|it| it.role == Role::Voter);
        // Earlier versions name none: they know one CA.
        let ca = <[u8; 32]>::try_from(asked).map_or_else(|_| self.issuer(&state), Fingerprint);
        match self.authority(ca).filter(|_| is_voter) {
            Some(authority) => Answer::Bytes(authority.to_secret().into()),
            None => Answer::Failed("not for this node, or not here".to_owned()),
        }
    }

    /// A certificate of now by `ca`, where this node has its key and may use it.
    pub(super) fn issue(
        &self,
        id: u64,
        key: &PublicKey,
        ca: Fingerprint,
    ) -> Option<Result<Renewal, KeyError>> {
        // RS-17, as far as this node knows.
        let state = self.cluster.state();
        let is_early = state
            .authorities()
            .rotation()
            .is_some_and(|it| it.stage == Stage::Trusting && it.to.key == ca.0);
        let authority = self.authority(ca).filter(|_| !is_early)?;
        let name = name_of(self.cluster.name().to_owned(), id);
        let issued = authority.issue(&name, key, certificate_life(now()));
        Some(issued.map(|issued| Renewal::new(issued, authority.certificate())))
    }

    /// Carries out what an operator wants, where this node leads.
    pub(super) async fn order_ca(&self, order: CaOrder) -> Result<CaStatus, Failure> {
        let state = self.cluster.read(PATIENCE).await.map_err(Failure::from)?;
        let change = match (order, state.authorities().rotation()) {
            (CaOrder::Rotate(window_s), None) => return self.begin(&state, window_s).await,
            (CaOrder::Rotate(_), Some(_)) => {
                return Err(refused("a rotation of the CA is on its way already").into());
            }
            (_, None) => return Err(refused("no rotation of the CA is on its way").into()),
            (CaOrder::Abort, Some(rotation)) => CaChange::Abort { turn: rotation.turn },
            (CaOrder::Finish, Some(rotation)) => {
                let missing = missing(rotation, &state);
                if !missing.is_empty() || rotation.ends().is_none() {
                    let message =
                        format!("{} not ready: {}", stage_text(rotation), named(&missing));
                    return Err(refused(message)
                        .help("wait for them; a node that is gone for good: `millrace node remove`")
                        .into());
                }
                CaChange::Step { turn: rotation.turn, at: now(), is_early: true }
            }
        };
        self.propose_ca(change).await
    }

    async fn begin(&self, state: &State, window_s: u64) -> Result<CaStatus, Failure> {
        let _drafting = self.drafting.lock().await;
        let Some(old) = self.authority(self.issuer(state)) else {
            let message = "the node that leads does not have the key of the CA yet";
            return Err(refused(message).help("try again in a second").into());
        };
        let failed = |error: KeyError| Failure::from(refused(error.to_string()));
        let life = Life::new(certificate_life(now()).from, CA_S);
        let new = Authority::create(self.cluster.name(), life).map_err(failed)?;
        let ca = |of: &Authority, by: &Authority| {
            let certificate = of.certificate();
            let bridge = by.vouch_for(of)?.der;
            let key = certificate.fingerprint().0;
            Ok::<_, KeyError>(Ca { key, certificate: certificate.der().to_vec(), bridge })
        };
        let from = ca(&old, &new).map_err(failed)?;
        let to = ca(&new, &old).map_err(failed)?;
        // Its key is here before anybody hears of it.
        self.keep_authority(Arc::new(new)).map_err(Failure::from)?;
        self.propose_ca(CaChange::Begin { from, to, at: now(), window_s }).await
    }

    async fn propose_ca(&self, change: CaChange) -> Result<CaStatus, Failure> {
        match self.cluster.propose(Command::Ca { change }).await {
            Ok(_) => Ok(self.ca_status()),
            Err(Error::Refused(Refused::StaleTurn { .. } | Refused::NotRotating)) => {
                Err(refused("the rotation has just gone on: look again").into())
            }
            Err(Error::Refused(error)) => Err(refused(error.to_string()).into()),
            Err(error) => Err(Failure::from(error)),
        }
    }

    /// The CAs as this node knows them.
    pub(super) fn ca_status(&self) -> CaStatus {
        let (state, trust) = (self.cluster.state(), self.trust());
        let trust = trust_of(&state).and_then(Result::ok).unwrap_or(trust);
        let rotation = state.authorities().rotation();
        let issuer = self.issuer(&state);
        let cas = trust.cas().iter().map(|ca| CaInfo {
            fingerprint: ca.fingerprint().to_string(),
            role: match rotation {
                _ if ca.fingerprint() == issuer => CaRole::Issues,
                Some(rotation) if rotation.stage == Stage::Trusting => CaRole::Next,
                _ => CaRole::Goes,
            },
            expires: ca.life().map(|life| time(life.until)),
        });
        CaStatus {
            api: API,
            cluster: self.cluster.name().to_owned(),
            cas: cas.collect(),
            rotation: rotation.map(|it| RotationInfo {
                stage: match it.stage {
                    Stage::Trusting => RotationStage::Trusting,
                    Stage::Renewing => RotationStage::Renewing,
                    Stage::Waiting { .. } => RotationStage::Waiting,
                },
                began: time(it.began),
                window_s: it.window_s,
                ends: it.ends().map(time),
                waits_for: missing(it, &state),
            }),
            outdated_tokens: outdated(&state),
        }
    }
}

/// Good tokens of subscribers that name a CA which goes, or is gone.
fn outdated(state: &State) -> Vec<OutdatedToken> {
    let (now, cas) = (now(), state.authorities());
    let trusted = cas.trusted();
    let tokens = state.subscribers().tokens().iter();
    let good = tokens.filter(|(_, it)| it.revoked.is_none() && now < it.until);
    let outdated = good.filter_map(|(id, it)| {
        let named = cas.outdated(*id)?;
        let works = trusted.iter().any(|ca| ca.key == named);
        Some(OutdatedToken { id: TokenId(*id).to_string(), name: it.name.clone(), works })
    });
    outdated.collect()
}

/// The names of those who have not done their part.
fn missing(rotation: &Rotation, state: &State) -> Vec<String> {
    let name = |id: &u64| state.roster().members().get(id).map(|it| it.name.clone());
    rotation.missing(state.roster()).iter().filter_map(name).collect()
}

fn named(missing: &[String]) -> String {
    match missing {
        [] => "the next stage is about to begin".to_owned(),
        some => format!("it waits for {}", some.join(", ")),
    }
}

const fn stage_text(rotation: &Rotation) -> &'static str {
    match rotation.stage {
        Stage::Trusting => "not all nodes trust the next CA:",
        Stage::Renewing => "not all nodes have a certificate of the next CA:",
        Stage::Waiting { .. } => "a node that joined has no certificate of the next CA:",
    }
}

fn time(seconds: u64) -> String {
    let ms = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000);
    rfc3339(bus::Timestamp(ms))
}

fn refused(message: impl Into<String>) -> CommandError {
    CommandError::new(exit::CONFLICT, "E0594", message)
        .help("`millrace ca status` shows how far it is")
}

impl Peers {
    /// When the first of the trusted CAs ends, Unix seconds.
    pub(crate) fn ca_until(&self) -> Option<u64> {
        let trust = self.desk.trust();
        trust.cas().iter().filter_map(|ca| ca.life()).map(|life| life.until).min()
    }

    /// When this node's certificate ends, Unix seconds.
    pub(crate) fn certificate_until(&self) -> u64 {
        self.exchange.certificate_life().until
    }

    /// When the rotation that is on its way began, Unix seconds.
    pub(crate) fn rotation_began(&self) -> Option<u64> {
        self.desk.cluster.state().authorities().rotation().map(|it| it.began)
    }

    pub(super) async fn change_ca(&self, order: CaOrder) -> Result<CaStatus, CommandError> {
        let status = self.order(Order::Ca(order)).await?;
        serde_json::from_value(status).map_err(|_other_version| of_cluster(&Error::Unknown))
    }
}
