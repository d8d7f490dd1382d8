//! `kingserver check`: what the library found, told to a person.

use std::fmt::Write as _;
use std::path::PathBuf;

use kingdb::store::check::{self, Checked, Damage, Repaired, Unfinished};

use super::bar::{Bar, size};
use super::{Order, Outcome, show};

pub fn check(order: &Order) -> Outcome {
    if order.has("repair") {
        return repair(order);
    }
    let mut bar = Bar::new("checking");
    let checked = check::check(&order.settings.db_path, &mut |done, total| bar.show(done, total));
    drop(bar);
    let checked = checked.map_err(|error| error.to_string())?;
    let mut text = told(&checked.damages, &checked.notes);
    line(&mut text, format_args!("{}: {}", verdict(&checked.damages, "damaged"), scope(&checked)));
    show(&text).map(|_| status(&checked.damages))
}

/// Whether it comes to its end or not, what it did is told: nobody can find out later.
fn repair(order: &Order) -> Outcome {
    let mut bar = Bar::new("checking");
    let repaired = check::repair(&order.settings.db_path, &mut |done, total| bar.show(done, total));
    drop(bar);
    match repaired {
        Ok(Repaired { damages, kept, now }) => {
            let mut text = told(&damages, &now.notes) + &names(&kept);
            line(&mut text, format_args!("{}; what is left: {}", verdict(&damages, "repaired"), scope(&now)));
            show(&text).map(|_| status(&damages))
        }
        Err(Unfinished { error, damages, kept }) => {
            let mut text = told(&damages, &[]) + &names(&kept);
            if !damages.is_empty() {
                line(&mut text, format_args!("{}; then it could not go on", verdict(&damages, "repaired")));
            }
            show(&text).and(Err(error.to_string()))
        }
    }
}

fn status(damages: &[Damage]) -> u8 {
    u8::from(!damages.is_empty())
}

fn told(damages: &[Damage], notes: &[String]) -> String {
    let mut text = String::new();
    damages.iter().for_each(|damage| line(&mut text, format_args!("{damage}")));
    notes.iter().for_each(|note| line(&mut text, format_args!("note: {note}")));
    text
}

fn names(kept: &[PathBuf]) -> String {
    let mut text = String::new();
    kept.iter().for_each(|file| line(&mut text, format_args!("kept as it was: {}", file.display())));
    text
}

fn verdict(damages: &[Damage], done: &str) -> String {
    match damages.len() {
        0 => "sound".into(),
        1 => format!("1 place {done}"),
        count => format!("{count} places {done}"),
    }
}

fn scope(checked: &Checked) -> String {
    let Checked { segments, extents, records, keys, large_values, bytes, .. } = checked;
    let read = size(*bytes);
    format!(
        "{keys} keys, {large_values} of them with large values; {records} records in {segments} segments, \
         {extents} extent files; {read} read"
    )
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{words}");
}
