//! The application that goes on writing while the campaign runs: it has a connection of its own, and encrypts
//! and decrypts through Keyrail as any application does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyrail_core::name::KeyName;
use keyrail_crypto::envelope::{Context, from_text, parse_text, to_text};
use keyrail_crypto::secret::Plaintext;
use keyrail_data::AssetError;
use keyrail_data::adapter::{self, AssetAdapter, AssetSpec, ColumnUpdate, Row, RowUpdate};
use keyrail_data::ops::asset::AssetView;
use keyrail_data::value::{Binding, Class, RowIdentity, Sql};
use keyrail_engine::ops::data::{CiphertextItem, Decrypt, Encrypt, EncryptItem};
use keyrail_engine::{Caller, Credential, EngineError};
use rusqlite::{Connection, params};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::failure::Failure;
use crate::people;
use crate::quickstart::ledger::Ledger;
use crate::quickstart::{Job, Open};

/// How long the application thinks between two writes.
const THINK: Duration = Duration::from_millis(2);

/// How many rows it reads at a time.
const PAGE_ROWS: usize = 8;

pub(super) struct Writer {
    began: Option<oneshot::Receiver<()>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<(Ledger, Done), Failure>>,
}

/// What it wrote.
#[derive(Clone, Copy, Default)]
pub(super) struct Done {
    /// Rows that were written, new ones included.
    pub(super) written: u64,
    /// Rows that are new.
    pub(super) inserted: u64,
}

impl Writer {
    /// Begins to write.
    pub(super) fn start(open: Open, key: KeyName, asset: AssetView, job: &Job, ledger: Ledger) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, handle) = (stop.clone(), Handle::current());
        let (begins, began) = oneshot::channel();
        let database = job.made_up.then(|| job.database.clone());
        let task = tokio::task::spawn_blocking(move || {
            let mut app = App { open, key, asset, handle, ledger, done: Done::default(), begins: Some(begins) };
            match database {
                Some(path) => app.write_people(&path, &stopped)?,
                None => app.rewrite(&stopped)?,
            }
            Ok((app.ledger, app.done))
        });
        Self { began: Some(began), stop, task }
    }

    /// Waits until it has written a row, or looked for one in vain.
    pub(super) async fn at_work(&mut self) {
        if let Some(began) = self.began.take() {
            // Who ends before that says why when it is stopped.
            let _ended = began.await;
        }
    }

    /// Ends it; tells what the rows must hold now, and how many were written.
    pub(super) async fn stop(self) -> Result<(Ledger, Done), Failure> {
        self.stop.store(true, Ordering::Release);
        self.task.await.map_err(|_| Failure::bug("the second writer ended by a panic"))?
    }
}

struct App {
    open: Open,
    key: KeyName,
    asset: AssetView,
    handle: Handle,
    ledger: Ledger,
    done: Done,
    begins: Option<oneshot::Sender<()>>,
}

impl App {
    fn engine_failure(&self, error: keyrail_data::AssetError) -> Failure {
        error.into_engine(self.asset.name.as_str()).into()
    }

    fn begun(&mut self) {
        if let Some(begins) = self.begins.take() {
            // Nobody waits any more once the run failed elsewhere.
            let _gone = begins.send(());
        }
    }

    fn context(&self, column: usize, row: Option<&RowIdentity>, class: Class) -> Result<Context, Failure> {
        let column = self.asset.columns.get(column).ok_or_else(|| Failure::bug("a column is gone"))?;
        let binding = Binding { asset: &self.asset.id, column: &column.id, row };
        binding.context(class).map_err(|_| Failure::bug("a row that cannot be bound"))
    }

    fn encrypt(
        &self,
        column: usize,
        row: Option<&RowIdentity>,
        class: Class,
        plaintext: &[u8],
    ) -> Result<String, Failure> {
        let context = self.context(column, row, class)?;
        let item = EncryptItem { plaintext: Plaintext::new(plaintext.to_vec()), context };
        let caller = Caller::new(Credential::LocalOperator)?;
        let op = Encrypt { key: self.key.clone(), items: vec![Ok(item)] };
        let answer = self.handle.block_on(self.open.execute(&caller, op))?;
        let sealed = answer.into_iter().next().ok_or_else(|| Failure::bug("an answer without its item"))??;
        Ok(sealed.ciphertext)
    }

    fn decrypt(
        &self,
        column: usize,
        row: Option<&RowIdentity>,
        class: Class,
        text: &str,
    ) -> Result<Result<Plaintext, EngineError>, Failure> {
        let item = CiphertextItem { ciphertext: text.to_owned(), context: self.context(column, row, class)? };
        let caller = Caller::new(Credential::LocalOperator)?;
        let op = Decrypt { key: self.key.clone(), items: vec![Ok(item)] };
        let answer = self.handle.block_on(self.open.execute(&caller, op))?;
        let opened = answer.into_iter().next().ok_or_else(|| Failure::bug("an answer without its item"))?;
        Ok(opened.map(|done| done.plaintext))
    }

    /// On the table of people: new people come, and old ones change what they left.
    fn write_people(&mut self, path: &std::path::Path, stop: &AtomicBool) -> Result<(), Failure> {
        let failed = |error: rusqlite::Error| Failure::bug(&format!("the second connection failed: {error}"));
        let connection = Connection::open(path).map_err(failed)?;
        connection.busy_timeout(Duration::from_secs(10)).map_err(failed)?;
        let people = self.ledger.rows();
        let mut next = people + 1;
        let mut turn = 0_u64;
        while !stop.load(Ordering::Acquire) {
            turn += 1;
            let new = turn.is_multiple_of(4);
            let id = if new { next } else { 1 + people::mix(turn) % people.max(1) };
            let mut person = people::person(id);
            person.email = Some(format!("changed{turn}@example.org"));
            let identity = RowIdentity::of(&[Sql::Integer(id as i64)]);
            let plain = [&person.email, &person.phone, &person.notes];
            let mut sealed: Vec<Option<String>> = Vec::with_capacity(plain.len());
            for (column, value) in plain.into_iter().enumerate() {
                sealed.push(
                    value
                        .as_ref()
                        .map(|text| self.encrypt(column, Some(&identity), Class::Same, text.as_bytes()))
                        .transpose()?,
                );
            }
            let [email, phone, notes] = sealed.as_slice() else { return Err(Failure::bug("a person without columns")) };
            let done = if new {
                next += 1;
                let sql = "INSERT INTO people (id, full_name, email, phone, notes, created_at) VALUES (?, ?, ?, ?, ?, '2026-01-01')";
                connection.execute(sql, params![id as i64, person.full_name, email, phone, notes])
            } else {
                let sql = "UPDATE people SET email = ?, phone = ?, notes = ? WHERE id = ?";
                connection.execute(sql, params![email, phone, notes, id as i64])
            };
            done.map_err(failed)?;
            let values: Vec<Sql> = plain
                .into_iter()
                .map(|value| value.as_ref().map_or(Sql::Null, |text| Sql::Text(text.clone().into_bytes())))
                .collect();
            self.ledger.set(identity.as_str(), &values);
            self.done.written += 1;
            self.done.inserted += u64::from(new);
            self.begun();
            std::thread::park_timeout(THINK);
        }
        Ok(())
    }

    /// On somebody's own data: rows are read, opened, encrypted anew and written back; no value changes.
    fn rewrite(&mut self, stop: &AtomicBool) -> Result<(), Failure> {
        let spec = self.spec()?;
        let mut adapter = adapter::open(&spec).map_err(|error| self.engine_failure(error))?;
        let mut after: Option<Vec<Sql>> = None;
        while !stop.load(Ordering::Acquire) {
            let page = adapter.page(after.as_deref(), PAGE_ROWS).map_err(|error| self.engine_failure(error))?;
            for row in &page.rows {
                self.rewrite_row(adapter.as_mut(), &spec, row)?;
            }
            after = page.rows.last().filter(|_| page.more).map(|row| row.key.clone());
            if self.done.written > 0 || after.is_none() {
                self.begun();
            }
            std::thread::park_timeout(THINK);
        }
        Ok(())
    }

    fn rewrite_row(&mut self, adapter: &mut dyn AssetAdapter, spec: &AssetSpec, row: &Row) -> Result<(), Failure> {
        let mut changes = Vec::new();
        for (column, cell) in spec.cells.iter().enumerate() {
            let Some(at) = spec.columns().iter().position(|name| *name == cell.column) else { continue };
            let Some(old) = row.values.get(at) else { continue };
            if let Some(new) = self.renewed(column, row.identity.as_ref(), old)? {
                changes.push(ColumnUpdate { column: at, old: old.clone(), new });
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        let update = RowUpdate { key: row.key.clone(), guard: row.guard.clone(), name: String::new(), changes };
        match adapter.write(&[update], &mut |_| Ok(())) {
            Ok(written) => self.done.written += written.iter().filter(|done| **done).count() as u64,
            // The row is read again in the next round.
            Err(AssetError::Moved) => {}
            Err(error) => return Err(self.engine_failure(error)),
        }
        Ok(())
    }

    /// A value that was opened and encrypted anew; nothing for what is not protected.
    fn renewed(&self, column: usize, row: Option<&RowIdentity>, old: &Sql) -> Result<Option<Sql>, Failure> {
        let text = match old {
            Sql::Text(text) => std::str::from_utf8(text).unwrap_or_default().to_owned(),
            Sql::Blob(envelope) => to_text(envelope),
            Sql::Null | Sql::Integer(_) | Sql::Real(_) | Sql::Typed(..) => return Ok(None),
        };
        if parse_text(&text).is_err() {
            return Ok(None);
        }
        for class in [Class::Same, Class::Integer, Class::Real] {
            let Ok(plaintext) = self.decrypt(column, row, class, &text)? else { continue };
            let sealed = self.encrypt(column, row, class, plaintext.as_bytes())?;
            return Ok(Some(match old {
                Sql::Blob(_) => Sql::Blob(from_text(&sealed).map_err(|_| Failure::bug("an envelope that is none"))?),
                _ => Sql::Text(sealed.into_bytes()),
            }));
        }
        Ok(None)
    }

    fn spec(&self) -> Result<AssetSpec, Failure> {
        let state = self.open.state();
        let asset = self.handle.block_on(state.asset(&self.asset.id)).map_err(EngineError::from)?;
        let asset = asset.ok_or_else(|| Failure::bug("the asset is gone"))?;
        let columns = self.handle.block_on(state.columns_of(&asset.id)).map_err(EngineError::from)?;
        AssetSpec::of(&asset, &columns).map_err(|error| self.engine_failure(error))
    }
}
