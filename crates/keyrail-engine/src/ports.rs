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
