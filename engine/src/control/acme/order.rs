//! One order of a certificate, from its authorizations to its chain (RFC 8555 section 7.4).

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Identifier, NewOrder, Order, OrderStatus, Problem,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::{Answers, pairs};
use crate::config::AcmeChallenge;

/// How long an authority may take to check challenges, and to make the certificate; each.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often it is asked whether it has.
const STEP: Duration = Duration::from_secs(1);

/// Runs what does its work at the first poll: requests block their thread, and nothing else here waits.
pub(super) fn run<T>(
    what: &str,
    work: impl Future<Output = Result<T, instant_acme::Error>>,
) -> Result<T, String> {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done.map_err(|error| format!("{what}: {error}")),
        Poll::Pending => unreachable!("requests block, and no other wait of instant-acme is used"),
    }
}

/// Gets a certificate for these hosts: its key and its chain, in PEM. `show` puts answers to challenges in force, and takes them
/// back.
///
/// # Errors
/// One line: what the authority refused, and why.
pub(super) fn order(
    account: &Account,
    hosts: &[String],
    challenge: AcmeChallenge,
    show: &mut dyn FnMut(Answers) -> Result<(), String>,
) -> Result<(String, String), String> {
    let identifiers: Vec<_> = hosts.iter().map(|host| Identifier::Dns(host.clone())).collect();
    let mut order = run("the order", account.new_order(&NewOrder::new(&identifiers)))?;
    let answers = answers(&mut order, challenge)?;
    if !answers.is_empty() {
        show(answers)?;
        let checked = have_checked(&mut order, challenge);
        // They are of no use any more, whatever came of them.
        show(Answers::default())?;
        checked?;
    }
    let (key, request) = request(hosts)?;
    run("the request for the certificate", order.finalize_csr(&request))?;
    wait(&mut order, OrderStatus::Valid)?;
    let chain = run("the certificate", order.certificate())?;
    Ok((key, chain.ok_or("the authority has made no certificate")?))
}

fn kind(challenge: AcmeChallenge) -> ChallengeType {
    match challenge {
        AcmeChallenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        AcmeChallenge::Http01 => ChallengeType::Http01,
    }
}

/// The answers to the challenges that are not met yet: an authority may remember earlier ones.
fn answers(order: &mut Order, challenge: AcmeChallenge) -> Result<Answers, String> {
    let mut answers = Answers::default();
    let mut authorizations = order.authorizations();
    while let Some(authorization) =
        run("an authorization", async { authorizations.next().await.transpose() })?
    {
        let mut authorization = authorization;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let host = authorization.identifier().to_string();
        let handle = authorization
            .challenge(kind(challenge))
            .ok_or_else(|| format!("the authority offers no such challenge for {host}"))?;
        let proof = handle.key_authorization();
        match challenge {
            AcmeChallenge::TlsAlpn01 => {
                let certificate = pairs::challenge(&host, proof.digest().as_ref())?;
                answers.certificates.push((host, Arc::new(certificate)));
            }
            AcmeChallenge::Http01 => answers.texts.push((handle.token.clone(), proof.as_str().to_owned())),
        }
    }
    Ok(answers)
}

/// Has the authority check the challenges, and waits until it has.
fn have_checked(order: &mut Order, challenge: AcmeChallenge) -> Result<(), String> {
    let mut authorizations = order.authorizations();
    while let Some(mut authorization) =
        run("an authorization", async { authorizations.next().await.transpose() })?
    {
        if authorization.status != AuthorizationStatus::Valid
            && let Some(mut handle) = authorization.challenge(kind(challenge))
        {
            run("a challenge", handle.set_ready())?;
        }
    }
    match wait(order, OrderStatus::Ready) {
        Ok(()) => Ok(()),
        Err(why) => Err(failed_check(order, challenge).unwrap_or(why)),
    }
}

/// Waits until the order has this status.
fn wait(order: &mut Order, wanted: OrderStatus) -> Result<(), String> {
    let until = Instant::now() + PATIENCE;
    loop {
        let state = run("the order", order.refresh())?;
        if let Some(problem) = &state.error {
            return Err(reason(problem));
        }
        match state.status {
            status if status == wanted || status == OrderStatus::Valid => return Ok(()),
            OrderStatus::Invalid => return Err("the authority has given up the order".to_owned()),
            _ if Instant::now() >= until => return Err("the authority takes too long".to_owned()),
            _ => thread::sleep(STEP),
        }
    }
}

/// Why the authority could not see that a host is ours, if it says so.
fn failed_check(order: &mut Order, challenge: AcmeChallenge) -> Option<String> {
    let mut authorizations = order.authorizations();
    while let Ok(Some(mut authorization)) = run("", async { authorizations.next().await.transpose() }) {
        run("", authorization.refresh()).ok()?;
        let host = authorization.identifier().to_string();
        let failed =
            authorization.challenge(kind(challenge)).and_then(|handle| handle.error.as_ref().map(reason));
        if let Some(why) = failed {
            return Some(format!("{host}: {why}"));
        }
    }
    None
}

fn reason(problem: &Problem) -> String {
    problem.to_string().trim_start_matches("API error: ").to_owned()
}

/// A fresh key in PEM, and the request for its certificate in DER.
fn request(hosts: &[String]) -> Result<(String, Vec<u8>), String> {
    let make = || {
        let mut params = CertificateParams::new(hosts.to_vec())?;
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate()?;
        let request = params.serialize_request(&key)?;
        Ok((key.serialize_pem(), request.der().to_vec()))
    };
    make().map_err(|error: rcgen::Error| format!("the request for the certificate cannot be made: {error}"))
}
