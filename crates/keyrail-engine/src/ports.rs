//! What the engine needs of the crates above it.

use async_trait::async_trait;
use keyrail_core::id::DataKeyId;
use keyrail_core::retirement::AssetEvidence;
use keyrail_crypto::envelope::Kid;

use crate::error::EngineError;

/// Counts what registered assets hold; `keyrail-data` implements it.
#[async_trait]
pub trait AssetPort: Send + Sync {
    /// Takes the census of every asset that the data key protects, for one version of it. An asset that
    /// cannot be counted comes with that as its evidence: absence proves nothing.
    ///
    /// # Errors
    /// [`EngineError`] when the list of assets itself cannot be read.
    async fn evidence(&self, key: DataKeyId, kid: Kid) -> Result<Vec<AssetEvidence>, EngineError>;
}

/// The way to a witness.
pub trait WitnessPort: Send + Sync {
    /// Sends a text to a path below the witness's URL, and waits for its answer: seconds at most.
    ///
    /// # Errors
    /// Why there is no answer, in words for people.
    fn post(&self, path: &str, body: String) -> Result<WitnessReply, String>;
}

/// The answer of a witness.
#[derive(Clone, Debug)]
pub struct WitnessReply {
    /// The HTTP status.
    pub status: u16,
    /// The body; one that is no text is empty.
    pub body: String,
}
