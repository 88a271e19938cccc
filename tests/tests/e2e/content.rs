//! A client of containerd's content service, as far as it is used to read: messages by hand, transport by `tonic`.

use std::collections::HashMap;

use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    digest: String,
    #[prost(int64, tag = "2")]
    size: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ListResponse {
    #[prost(message, repeated, tag = "1")]
    info: Vec<Info>,
}

#[derive(Clone, PartialEq, Message)]
struct ReadRequest {
    #[prost(string, tag = "1")]
    digest: String,
}

#[derive(Clone, PartialEq, Message)]
struct ReadResponse {
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

/// The service.
pub(crate) struct Content(Grpc<Channel>);

impl Content {
    pub(crate) fn new(channel: Channel) -> Self {
        Self(Grpc::new(channel))
    }

    async fn stream<In, Out>(
        &mut self,
        path: &'static str,
        message: In,
    ) -> Result<Streaming<Out>, Status>
    where
        In: Message + Default + Send + Sync + 'static,
        Out: Message + Default + Send + Sync + 'static,
    {
        self.0.ready().await.unwrap();
        let codec: ProstCodec<In, Out> = ProstCodec::default();
        let path = PathAndQuery::from_static(path);
        Ok(self.0.server_streaming(Request::new(message), path, codec).await?.into_inner())
    }

    /// Sizes by digest.
    pub(crate) async fn list(&mut self) -> HashMap<String, i64> {
        let path = "/containerd.services.content.v1.Content/List";
        let mut stream: Streaming<ListResponse> = self.stream(path, Empty {}).await.unwrap();
        let mut all = HashMap::new();
        while let Some(response) = stream.message().await.unwrap() {
            all.extend(response.info.into_iter().map(|info| (info.digest, info.size)));
        }
        all
    }

    /// A blob.
    pub(crate) async fn read(&mut self, digest: &str) -> Result<Vec<u8>, Status> {
        let path = "/containerd.services.content.v1.Content/Read";
        let request = ReadRequest { digest: digest.to_owned() };
        let mut stream: Streaming<ReadResponse> = self.stream(path, request).await?;
        let mut all = Vec::new();
        while let Some(response) = stream.message().await? {
            all.extend(response.data);
        }
        Ok(all)
    }
}
