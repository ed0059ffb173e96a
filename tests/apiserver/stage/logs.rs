//! The one thing that the API server asks a kubelet: the log of a Pod.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::kubelet::{Kubelet, NODE};

/// Serves the logs that the kubelet keeps, and tells the API server where.
pub async fn serve(client: &Client, kubelet: Arc<Kubelet>) {
    let keys = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate for an address");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(keys.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions of ring");
    let config =
        config.with_no_client_auth().with_single_cert(vec![keys.cert.der().clone()], key).expect("a pair of keys");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    introduce(client, listener.local_addr().expect("it listens").port()).await;
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let (acceptor, kubelet) = (acceptor.clone(), kubelet.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(connection).await {
                    let (reader, mut writer) = tokio::io::split(stream);
                    let mut line = String::new();
                    let _ = BufReader::new(reader.take(8192)).read_line(&mut line).await;
                    let _ = answer(&mut writer, log(&kubelet, &line)).await;
                }
            });
        }
    });
}

/// Makes the Node whose kubelet we play.
async fn introduce(client: &Client, port: u16) {
    let nodes: Api<Node> = Api::all(client.clone());
    let node: Node = serde_json::from_value(json!({"metadata": {"name": NODE}})).expect("a Node");
    nodes.create(&PostParams::default(), &node).await.expect("a Node");
    let status = json!({"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}});
    let patch = Patch::Merge(json!({"status": status}));
    nodes.patch_status(NODE, &PatchParams::default(), &patch).await.expect("the Node's status");
}

/// The log that `GET /containerLogs/NAMESPACE/POD/CONTAINER?tailLines=N HTTP/1.1` asks for.
fn log(kubelet: &Kubelet, request: &str) -> Option<String> {
    let target = request.split_whitespace().nth(1)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut parts = path.strip_prefix("/containerLogs/")?.split('/');
    let log = kubelet.place(parts.next()?).log(parts.next()?)?;
    let tail = query.split('&').find_map(|pair| pair.strip_prefix("tailLines=")?.parse::<usize>().ok());
    let lines: Vec<&str> = log.lines().collect();
    let from = lines.len().saturating_sub(tail.unwrap_or(lines.len()));
    Some(lines[from..].join("\n"))
}

async fn answer(writer: &mut (impl AsyncWrite + Unpin), log: Option<String>) -> std::io::Result<()> {
    let (status, body) = log.map_or(("404 Not Found", String::new()), |log| ("200 OK", log));
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    writer.write_all(format!("{head}{body}").as_bytes()).await?;
    writer.shutdown().await
}
