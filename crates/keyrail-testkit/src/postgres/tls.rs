//! TLS for a server: an authority of its own, and a certificate for loopback.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::SUPERUSER;
use super::host::Host;

/// Writes `ca.pem`, `client.crt` and `client.key` (of the superuser) into `dir`, the server's certificate and key into its
/// files, and demands TLS of every connection
/// over the network. Gives the settings that turn it on.
pub(super) fn prepare(host: &Host, dir: &Path, data: &Path) -> anyhow::Result<Vec<(&'static str, String)>> {
    let mut authority = named("the tests' authority")?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    host.write(&dir.join("ca.pem"), &authority.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(authority, key);
    let server_key = KeyPair::generate()?;
    let mut server = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    server.distinguished_name.push(DnType::CommonName, "localhost");
    let certificate = server.signed_by(&server_key, &issuer)?;
    host.write(&data.join("server.crt"), &certificate.pem())?;
    host.write(&data.join("server.key"), &server_key.serialize_pem())?;
    let rules = data.join("pg_hba.conf");
    let text = std::fs::read_to_string(&rules)?;
    host.write(&rules, &text.replace("\nhost ", "\nhostssl "))?;
    let client_key = KeyPair::generate()?;
    let client = named(SUPERUSER)?.signed_by(&client_key, &issuer)?;
    host.write(&dir.join("client.crt"), &client.pem())?;
    host.write(&dir.join("client.key"), &client_key.serialize_pem())?;
    Ok(vec![("ssl", "on".to_owned()), ("ssl_ca_file", dir.join("ca.pem").display().to_string())])
}

/// An authority and what it signs must not have one name: that is taken for a certificate that signs itself.
fn named(name: &str) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}
