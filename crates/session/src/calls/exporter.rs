//! `Exporter`: what the client wants to be exported once it is told what the build made.

use std::collections::{BTreeMap, HashMap};

use cofferdam_wire::moby::exporter::v1::{
    ExporterClient, FinalizeExportRequest, FindExportersRequest,
};
use connectrpc::ErrorCode;

use crate::session::{RpcError, Session};

const FIND: &str = "/moby.exporter.v1.Exporter/FindExporters";
const FINALIZE: &str = "/moby.exporter.v1.Exporter/FinalizeExport";

/// One exporter that the client wants.
#[derive(Debug, Clone)]
pub struct WantedExporter {
    /// Its type.
    pub kind: String,
    /// Its attributes.
    pub attrs: BTreeMap<String, String>,
}

impl Session {
    /// The exporters the client wants for a result with this metadata; none when it does not
    /// serve the question.
    ///
    /// # Errors
    /// The call failed.
    pub async fn find_exporters(
        &self,
        metadata: HashMap<String, Vec<u8>>,
        refs: Vec<String>,
    ) -> Result<Vec<WantedExporter>, RpcError> {
        if !self.supports(FIND) {
            return Ok(Vec::new());
        }
        let client = ExporterClient::new(self.transport().clone(), self.config());
        let metadata = metadata.into_iter().collect();
        let request = FindExportersRequest { metadata, refs, ..FindExportersRequest::default() };
        match client.find_exporters_with_options(request, Self::options()).await {
            Ok(response) => {
                let wanted = response.into_owned().exporters.into_iter().map(|one| {
                    WantedExporter { kind: one.Type, attrs: one.Attrs.into_iter().collect() }
                });
                Ok(wanted.collect())
            }
            Err(error) if is_absent(error.code) => Ok(Vec::new()),
            Err(error) => Err(RpcError::new(FIND, error)),
        }
    }

    /// Tells the client what its exporters answered.
    ///
    /// # Errors
    /// The call failed.
    pub async fn finalize_export(
        &self,
        response: &BTreeMap<String, String>,
    ) -> Result<(), RpcError> {
        if !self.supports(FINALIZE) {
            return Ok(());
        }
        let client = ExporterClient::new(self.transport().clone(), self.config());
        let request = FinalizeExportRequest {
            exporter_response: response.clone().into_iter().collect(),
            ..FinalizeExportRequest::default()
        };
        match client.finalize_export_with_options(request, Self::options()).await {
            Ok(_) => Ok(()),
            Err(error) if is_absent(error.code) => Ok(()),
            Err(error) => Err(RpcError::new(FINALIZE, error)),
        }
    }
}

const fn is_absent(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::Unavailable | ErrorCode::Unimplemented)
}
