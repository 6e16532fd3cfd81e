//! A server that shows Ada Bob's own certificate, which is no secret, without having Bob's private key.
//!
//! The proof speaks of certificates, so it is worth as much as DTLS's insistence that each end sign with the key of the
//! certificate it shows.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fast_rtc_swarm::core::peer::{LinkKey, PeerClosed, PeerCommand, PeerEvent};
use fast_rtc_swarm::io::rtc::{Bind, RtcConfig, RtcDriver};
use fast_rtc_swarm::wire::{Candidate, Sdp};
use rtc::peer_connection::certificate::CertificateParams;
use tokio::sync::mpsc;
use webrtc::peer_connection::crypto::{RTCCryptoProvider, SignatureScheme, default_provider};
use webrtc::peer_connection::{
    PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCCertificate,
    RTCConfigurationBuilder, RTCIceCandidateInit, RTCPeerConnectionIceEvent, RTCSessionDescription,
};

const ADAS: LinkKey = LinkKey(1);

/// The handshake's own patience is 10 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who makes the offer, and with it who is the server of the DTLS handshake.
#[derive(Clone, Copy)]
enum Offerer {
    Ada,
    Eve,
}

fn certificate(crypto: &dyn RTCCryptoProvider) -> RTCCertificate {
    let params = CertificateParams::new(vec!["swarm".into()]).expect("a name");
    RTCCertificate::generate(crypto.crypto(), SignatureScheme::EcdsaP256Sha256, params)
        .expect("P-256 is there")
}

/// The certificate of one with the private key of the other.
fn with_key_of(
    shown: &RTCCertificate,
    owned: &RTCCertificate,
    crypto: &dyn RTCCryptoProvider,
) -> RTCCertificate {
    const END_OF_KEY: &str = "-----END PRIVATE_KEY-----";
    let (shown, owned) = (shown.serialize_pem().expect("PEM"), owned.serialize_pem().expect("PEM"));
    let (_, certificate) = shown.split_once(END_OF_KEY).expect("the key comes before the certificate");
    let (key, _) = owned.split_once(END_OF_KEY).expect("the key comes before the certificate");
    RTCCertificate::from_pem(&format!("{key}{END_OF_KEY}{certificate}"), crypto.crypto()).expect("PEM")
}

struct Candidates(mpsc::UnboundedSender<RTCIceCandidateInit>);

#[async_trait]
impl PeerConnectionEventHandler for Candidates {
    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        let _ = self.0.send(event.candidate.to_json().expect("a candidate can be written down"));
    }
}

struct Eve {
    pc: Box<dyn PeerConnection>,
    candidates: mpsc::UnboundedReceiver<RTCIceCandidateInit>,
}

impl Eve {
    async fn new(certificate: RTCCertificate) -> Self {
        let (sender, candidates) = mpsc::unbounded_channel();
        let pc = PeerConnectionBuilder::new()
            .with_configuration(
                RTCConfigurationBuilder::default().with_certificates(vec![certificate]).build(),
            )
            .with_handler(Arc::new(Candidates(sender)))
            .with_udp_addrs(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))])
            .build()
            .await
            .expect("loopback is there");
        Self { pc: Box::new(pc), candidates }
    }

    async fn offer(&self) -> Sdp {
        self.pc.create_data_channel("fast", None).await.expect("a channel");
        let offer = self.pc.create_offer(None).await.expect("an offer");
        self.pc.set_local_description(offer.clone()).await.expect("our own offer");
        Sdp::new(offer.sdp).expect("short")
    }

    async fn answer(&self, sdp: &Sdp) -> Sdp {
        let offer = RTCSessionDescription::offer(sdp.as_str().into()).expect("Ada's offer");
        self.pc.set_remote_description(offer).await.expect("Ada's offer");
        let answer = self.pc.create_answer(None).await.expect("an answer");
        self.pc.set_local_description(answer.clone()).await.expect("our own answer");
        Sdp::new(answer.sdp).expect("short")
    }

    async fn accept(&self, sdp: &Sdp) {
        let answer = RTCSessionDescription::answer(sdp.as_str().into()).expect("Ada's answer");
        self.pc.set_remote_description(answer).await.expect("Ada's answer");
    }

    async fn add(&self, candidate: Candidate) {
        let init = RTCIceCandidateInit {
            candidate: candidate.candidate,
            sdp_mid: candidate.sdp_mid,
            sdp_mline_index: candidate.sdp_m_line_index,
            username_fragment: candidate.username_fragment,
            url: None,
        };
        self.pc.add_ice_candidate(init).await.expect("Ada's candidate");
    }
}

/// Connects Eve to Ada and returns how it went at Ada's: her connection came up, or this is why it ended.
async fn meet(certificate: RTCCertificate, offerer: Offerer) -> Result<(), PeerClosed> {
    let bind = Bind::Addresses(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    let config = RtcConfig { bind, mdns: false, ..RtcConfig::default() };
    let (mut ada, mut events) = RtcDriver::new(config).expect("loopback is there");
    let mut eve = Eve::new(certificate).await;
    match offerer {
        Offerer::Ada => ada.command(ADAS, PeerCommand::CreateOffer),
        Offerer::Eve => ada.command(ADAS, PeerCommand::AcceptOffer { sdp: eve.offer().await }),
    }
    let mut described = false;
    let mut early = Vec::new();
    loop {
        tokio::select! {
            Some((_, event)) = events.recv() => match event {
                PeerEvent::Description(sdp) => {
                    match offerer {
                        Offerer::Ada => ada.command(ADAS, PeerCommand::AcceptAnswer { sdp: eve.answer(&sdp).await }),
                        Offerer::Eve => eve.accept(&sdp).await,
                    }
                    described = true;
                    for candidate in early.drain(..) {
                        ada.command(ADAS, PeerCommand::AddCandidate(Some(candidate)));
                    }
                }
                PeerEvent::Candidate(Some(candidate)) => eve.add(candidate).await,
                PeerEvent::Connected { .. } => return Ok(()),
                PeerEvent::Closed(reason) => return Err(reason),
                _ => {}
            },
            Some(init) = eve.candidates.recv() => {
                let candidate = Candidate {
                    candidate: init.candidate,
                    sdp_mid: Some("0".into()),
                    sdp_m_line_index: Some(0),
                    username_fragment: None,
                };
                match described {
                    true => ada.command(ADAS, PeerCommand::AddCandidate(Some(candidate))),
                    false => early.push(candidate),
                }
            }
            () = tokio::time::sleep(PATIENCE) => panic!("nothing came of it"),
        }
    }
}

#[tokio::test]
async fn a_certificate_without_its_private_key_gets_nobody_in() {
    let crypto = default_provider().expect("a crypto provider");
    let (bob, eve) = (certificate(&*crypto), certificate(&*crypto));
    let stolen = with_key_of(&bob, &eve, &*crypto);
    for offerer in [Offerer::Ada, Offerer::Eve] {
        assert_eq!(meet(bob.clone(), offerer).await, Ok(()), "with its key it does");
    }
    let (as_answerer, as_offerer) =
        tokio::join!(meet(stolen.clone(), Offerer::Ada), meet(stolen, Offerer::Eve));
    assert_eq!((as_answerer, as_offerer), (Err(PeerClosed::DtlsFailed), Err(PeerClosed::DtlsFailed)));
}
