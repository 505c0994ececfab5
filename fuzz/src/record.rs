//! Audit records as JSON.

use keyrail_core::record::Record;

/// A short record and one with every field.
pub fn seeds() -> Vec<Vec<u8>> {
    let short = r#"{"v":1,"id":"00112233445566778899aabbccddeeff","time":"2026-11-24T09:30:00.000Z","kind":"operation","principal":"local operator","action":"ACTION","decision":"allow","reason":"r","outcome":"done"}"#;
    let long = r#"{"v":1,"id":"00112233445566778899aabbccddeeff","time":"2026-11-24T09:30:00.000Z","kind":"alarm","principal":"token","session":"ffeeddccbbaa99887766554433221100","action":"ACTION","resource":"acme/prod/crm/pii","versions":[{"version":2,"kid":"30313233343536373839616263646566","count":3}],"asset":"people","app":"crm","component":"form","environment":"prod","build":"7","from":"127.0.0.1:1","trace":"t","decision":"refuse","reason":"r","outcome":"refused","code":"c","items":4,"failed":1,"detail":[{"name":"n","value":"v"}]}"#;
    let action = keyrail_core::access::Action::ALL.first().map_or("", |action| action.as_str());
    [short, long].iter().map(|text| text.replace("ACTION", action).into_bytes()).collect()
}

/// A record that was read is written and read again as the same.
pub fn check(data: &[u8]) -> bool {
    let Ok(record) = serde_json::from_slice::<Record>(data) else { return false };
    let written = serde_json::to_vec(&record).expect("a record can be written");
    let again: Record = serde_json::from_slice(&written).expect("a written record can be read");
    assert_eq!(again, record);
    true
}
