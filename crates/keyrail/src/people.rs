//! A made-up table of people that looks like production: many scripts, gaps, emoji, long notes. The names are
//! common given and family names in random pairs, and belong to nobody.

use std::path::Path;

use rusqlite::{Connection, params};

/// The table.
pub(crate) const TABLE: &str = "people";

/// The columns that the quickstart protects.
pub(crate) const COLUMNS: [&str; 3] = ["email", "phone", "notes"];

const SCHEMA: &str = "CREATE TABLE people (
    id         INTEGER PRIMARY KEY,
    full_name  TEXT NOT NULL,
    email      TEXT,
    phone      TEXT,
    notes      TEXT,
    city       TEXT,
    created_at TEXT NOT NULL
)";

const NAMES: [(&str, &str, &str, &str); 16] = [
    ("Anna", "Müller", "anna.mueller", "Köln"),
    ("José", "García", "jose.garcia", "Málaga"),
    ("Zoë", "van den Berg", "zoe.vdberg", "’s-Hertogenbosch"),
    ("Łukasz", "Wójcik", "lukasz.wojcik", "Łódź"),
    ("Søren", "Østergård", "soren.ostergard", "Aarhus"),
    ("Нина", "Кузнецова", "nina.k", "Варна"),
    ("Γιώργος", "Παπαδόπουλος", "g.papadopoulos", "Θεσσαλονίκη"),
    ("محمد", "العلي", "m.alali", "عمّان"),
    ("נועה", "לוי", "noa.levi", "חיפה"),
    ("प्रिया", "शर्मा", "priya.sharma", "जयपुर"),
    ("สมชาย", "ใจดี", "somchai", "เชียงใหม่"),
    ("李", "明", "li.ming", "成都"),
    ("佐藤", "さくら", "sakura.sato", "札幌"),
    ("김", "민준", "minjun.kim", "부산"),
    ("Nguyễn", "Thị Hoa", "hoa.nguyen", "Đà Nẵng"),
    ("Chidi", "Okafor", "chidi.okafor", "Enugu"),
];

const NOTES: [&str; 6] = [
    "prefers to be called after 18:00 ☎️",
    "VIP 🌟 — send the printed catalogue",
    "moved in spring; the old address bounces\nask again",
    "allergic to nuts 🥜, wheelchair access 🧑‍🦽",
    "kr1. is how this note begins? no: it ends so: kr1.",
    "",
];

/// A number that looks random and is the same every time (splitmix64).
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn pick<T: Copy>(list: &[T], random: u64, or: T) -> T {
    let index = usize::try_from(random % list.len().max(1) as u64).unwrap_or(0);
    list.get(index).copied().unwrap_or(or)
}

/// A person of the table.
pub(crate) struct Person {
    pub(crate) full_name: String,
    pub(crate) email: Option<String>,
    pub(crate) phone: Option<String>,
    pub(crate) notes: Option<String>,
    city: &'static str,
    created_at: String,
}

/// The person with this id.
pub(crate) fn person(id: u64) -> Person {
    let random = |salt: u64| mix(id.wrapping_mul(31).wrapping_add(salt));
    let or = ("", "", "", "");
    let (given, _, mailbox, city) = pick(&NAMES, random(1), or);
    let (_, family, _, _) = pick(&NAMES, random(2), or);
    let email = match random(3) % 20 {
        0 => None,
        1 => Some(String::new()),
        _ => Some(format!("{mailbox}{id}@example.{}", pick(&["org", "com", "net"], random(4), "org"))),
    };
    let phone = match random(5) % 10 {
        0 | 1 => None,
        2 => Some("n/a".to_owned()),
        _ => Some(format!("+{} {:03} {:07}", 1 + random(6) % 98, random(7) % 1_000, random(8) % 10_000_000)),
    };
    let notes = match random(9) % 50 {
        0 => Some(
            pick(&NOTES, random(10), "").chars().chain("—note—".chars()).cycle().take(1_400).collect::<String>()
                + &"x".repeat(4_096),
        ),
        1..=25 => None,
        _ => Some(pick(&NOTES, random(11), "").to_owned()),
    };
    // Some people left nothing but their name.
    let gone = random(12) % 200 == 0;
    Person {
        full_name: format!("{given} {family}"),
        email: email.filter(|_| !gone),
        phone: phone.filter(|_| !gone),
        notes: notes.filter(|_| !gone),
        city,
        created_at: format!("20{:02}-{:02}-{:02}", 15 + random(13) % 11, 1 + random(14) % 12, 1 + random(15) % 28),
    }
}

/// Makes the database.
pub(crate) fn create(path: &Path, rows: u32) -> rusqlite::Result<()> {
    let mut connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    {
        let mut insert = transaction.prepare(
            "INSERT INTO people (id, full_name, email, phone, notes, city, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        )?;
        for id in 1..=u64::from(rows) {
            let row = person(id);
            insert.execute(params![
                id as i64,
                row.full_name,
                row.email,
                row.phone,
                row.notes,
                row.city,
                row.created_at
            ])?;
        }
    }
    transaction.commit()
}
