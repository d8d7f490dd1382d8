//! `kingserver check`: what the library found, told to a person.

use std::fmt::Write as _;

use kingdb::store::check::{self, Checked, Damage};

use super::bar::{Bar, size};
use super::{Order, Outcome, show};

pub fn check(order: &Order) -> Outcome {
    let mut bar = Bar::new("checking");
    let mut watch = |done, total| bar.show(done, total);
    if order.has("repair") {
        let repaired = check::repair(&order.settings.db_path, &mut watch).map_err(|error| error.to_string())?;
        drop(bar);
        let mut text = told(&repaired.damages, &repaired.now);
        repaired.kept.iter().for_each(|file| line(&mut text, format_args!("kept as it was: {}", file.display())));
        line(
            &mut text,
            format_args!("{}; what is left: {}", verdict(&repaired.damages, "repaired"), scope(&repaired.now)),
        );
        return show(&text).map(|_| status(&repaired.damages));
    }
    let checked = check::check(&order.settings.db_path, &mut watch).map_err(|error| error.to_string())?;
    drop(bar);
    let mut text = told(&checked.damages, &checked);
    line(&mut text, format_args!("{}: {}", verdict(&checked.damages, "damaged"), scope(&checked)));
    show(&text).map(|_| status(&checked.damages))
}

fn status(damages: &[Damage]) -> u8 {
    u8::from(!damages.is_empty())
}

fn told(damages: &[Damage], checked: &Checked) -> String {
    let mut text = String::new();
    damages.iter().for_each(|damage| line(&mut text, format_args!("{damage}")));
    checked.notes.iter().for_each(|note| line(&mut text, format_args!("note: {note}")));
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
