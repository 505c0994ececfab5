//! What the engine asks of assets before it retires a version.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use keyrail_core::asset::Asset;
use keyrail_core::campaign::CampaignState;
use keyrail_core::id::DataKeyId;
use keyrail_core::name::KeyName;
use keyrail_core::retirement::{AssetCount, AssetEvidence, CensusFailure};
use keyrail_crypto::envelope::Kid;
use keyrail_engine::ports::AssetPort;
use keyrail_engine::{EngineError, Unsealed};

use crate::ops::census_of;

struct Port {
    /// The opened store owns the port, not the other way round.
    open: Weak<Unsealed>,
}

/// What counts the data of assets, for an opened store.
pub fn assets(open: &Arc<Unsealed>) -> Arc<dyn AssetPort> {
    Arc::new(Port { open: Arc::downgrade(open) })
}

#[async_trait]
impl AssetPort for Port {
    async fn evidence(&self, key: DataKeyId, kid: Kid) -> Result<Vec<AssetEvidence>, EngineError> {
        let open = self.open.upgrade().ok_or(EngineError::ShuttingDown)?;
        let row = open.state().data_key(&key).await?.ok_or(EngineError::Bug { what: "a key vanished" })?;
        let name = open.state().key_name(&row).await?;
        let mut evidence = Vec::new();
        for asset in open.state().assets_of_key(&key).await? {
            evidence.push(of_asset(&open, &asset, &name, kid).await?);
        }
        Ok(evidence)
    }
}

async fn of_asset(open: &Arc<Unsealed>, asset: &Asset, key: &KeyName, kid: Kid) -> Result<AssetEvidence, EngineError> {
    let campaigns = open.state().campaigns_of(&asset.id).await?;
    let open_campaign = campaigns.iter().find(|campaign| campaign.state != CampaignState::Completed);
    let open_campaign = open_campaign.map(|campaign| (campaign.id, campaign.state));
    let census = match census_of(open, asset, key).await {
        Ok((_, census)) => {
            let damaged = census.damaged_by_version.get(&kid).copied().unwrap_or(0);
            Ok(AssetCount { left: census.cells.get(&kid).copied().unwrap_or(0) + damaged, damaged })
        }
        Err(error) => {
            tracing::warn!(asset = %asset.name, error = %error, "an asset could not be counted");
            Err(CensusFailure)
        }
    };
    Ok(AssetEvidence { asset: asset.name.clone(), census, open_campaign })
}
