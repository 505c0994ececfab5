//! Whether an asset wants what is another's: another asset's, another choice's of the same asset, or Keyrail's own.

use std::path::Path;

use keyrail_core::asset::{Asset, AssetColumn};
use keyrail_engine::{EngineError, Unsealed};

use crate::error::AssetError;
use crate::json::JsonPath;
use crate::ops::asset::ColumnChoice;
use crate::postgres::Place;

/// Two choices of one column overlap if one of them is the whole column, or its path leads into the other's.
pub(super) fn overlap(one: &ColumnChoice, other: &ColumnChoice) -> bool {
    let path = |choice: &ColumnChoice| choice.json_path.as_deref().map(str::parse::<JsonPath>);
    one.column.eq_ignore_ascii_case(&other.column)
        && match (path(one), path(other)) {
            (Some(Ok(one)), Some(Ok(other))) => one.overlaps(&other),
            _ => true,
        }
}

/// Whether two URLs lead to one database.
fn same_database(one: &str, other: &str) -> bool {
    if let (Ok(one), Ok(other)) = (Place::parse(one), Place::parse(other)) {
        return one.is_same_database(&other);
    }
    let file = |url: &str| url.split_once(':').and_then(|(_, path)| std::fs::canonicalize(path).ok());
    one == other || matches!((file(one), file(other)), (Some(one), Some(other)) if one == other)
}

/// Refuses a file in the data directory, before it is opened.
pub(super) fn check_not_ours(open: &Unsealed, asset: &Asset) -> Result<(), EngineError> {
    let whole = |path: &Path| std::fs::canonicalize(path).ok();
    let file = asset.url.split_once(':').and_then(|(_, path)| whole(path.as_ref()));
    match (file, open.data_dir().and_then(whole)) {
        (Some(file), Some(dir)) if file.starts_with(&dir) => {
            Err(AssetError::own_file().into_engine(asset.name.as_str()))
        }
        _ => Ok(()),
    }
}

/// Refuses columns that another asset has already: each would take the other's values for damaged.
pub(super) async fn check_free(open: &Unsealed, asset: &Asset, columns: &[AssetColumn]) -> Result<(), EngineError> {
    for other in open.state().assets().await? {
        let same =
            other.id != asset.id && other.table.eq_ignore_ascii_case(&asset.table) && other.schema == asset.schema;
        if !same || !same_database(&other.url, &asset.url) {
            continue;
        }
        let taken = open.state().columns_of(&other.id).await?;
        let taken: Vec<_> = taken.iter().map(choice).collect();
        if let Some(twice) = columns.iter().find(|row| taken.iter().any(|other| overlap(&choice(row), other))) {
            let problem = format!("column `{}` belongs to the asset `{}` already", twice.column, other.name);
            let hint = "leave it out, or unprotect the other asset first".to_owned();
            return Err(AssetError::Unfit { problem, hint }.into_engine(asset.name.as_str()));
        }
    }
    Ok(())
}

pub(super) fn choice(row: &AssetColumn) -> ColumnChoice {
    ColumnChoice { column: row.column.clone(), json_path: row.json_path.clone() }
}
