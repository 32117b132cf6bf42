//! What lies between a subscriber and its node: it can be cut. From a cut on nothing passes either
//! way until the subscriber begins a new connection, so that the old one is dead for both.

use std::net::SocketAddr;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use crate::promise::{During, NotShown};

/// It runs until this is dropped.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    cuts: mpsc::Sender<()>,
}

/// A subscriber's socket, and ours to the node for it.
struct Flow {
    from: SocketAddr,
    to: UdpSocket,
    is_cut: bool,
}

impl Proxy {
    pub(super) async fn start(node: SocketAddr) -> Result<Self, NotShown> {
        let front = UdpSocket::bind("127.0.0.1:0").await.during("bind the proxy")?;
        let address = front.local_addr().during("read an address")?;
        let (cuts, cut) = mpsc::channel(8);
        tokio::spawn(pass(front, node, cut));
        Ok(Self { address, cuts })
    }

    pub(super) async fn cut(&self) -> Result<(), NotShown> {
        self.cuts.send(()).await.during("cut")
    }
}

/// The first packet of a connection (RFC 9000 section 17.2.2): long header, type 0.
fn is_initial(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first & 0xf0 == 0xc0)
}

async fn pass(front: UdpSocket, node: SocketAddr, mut cuts: mpsc::Receiver<()>) {
    let mut flow: Option<Flow> = None;
    let (mut asked, mut answer) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        let answered = async {
            match &flow {
                Some(flow) => flow.to.recv(&mut answer).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            cut = cuts.recv() => match (cut, &mut flow) {
                (None, _) => return,
                (Some(()), Some(flow)) => flow.is_cut = true,
                (Some(()), None) => {}
            },
            received = front.recv_from(&mut asked) => {
                let Ok((length, from)) = received else { continue };
                let packet = &asked[..length];
                let is_known = flow.as_ref().is_some_and(|it| it.from == from && !it.is_cut);
                let is_dead = flow.as_ref().is_some_and(|it| it.from == from && it.is_cut);
                if !is_known && (is_dead || !is_initial(packet)) {
                    continue;
                }
                if !is_known {
                    let Ok(to) = UdpSocket::bind("127.0.0.1:0").await else { continue };
                    if to.connect(node).await.is_err() {
                        continue;
                    }
                    flow = Some(Flow { from, to, is_cut: false });
                }
                if let Some(flow) = &flow {
                    // A node that is down answers with an error here: the packet is lost.
                    drop(flow.to.send(packet).await);
                }
            }
            received = answered => {
                if let (Ok(length), Some(flow)) = (received, &flow) && !flow.is_cut {
                    drop(front.send_to(&answer[..length], flow.from).await);
                }
            }
        }
    }
}
