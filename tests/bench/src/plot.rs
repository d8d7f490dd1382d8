//! The pictures, as SVG.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64 as RangedF64;
use plotters::prelude::*;

use crate::case::{Case, size_title};
use crate::matrix::Row;
use crate::measure::Sample;
use crate::peer::Peer;
use crate::report::{Results, figure};

/// Where a picture or a part of it is drawn.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// Of all texts.
pub const FONT: &str = "sans-serif";

/// Each peer has one colour everywhere.
fn colour(peer: Peer) -> RGBColor {
    match peer {
        Peer::Null => RGBColor(170, 170, 170),
        Peer::KingServer => RGBColor(204, 85, 0),
        Peer::Memcached => RGBColor(31, 119, 180),
        Peer::Redis => RGBColor(148, 103, 189),
        Peer::Threaded => RGBColor(31, 119, 80),
    }
}

/// Draws into a new SVG and gives its text.
pub fn svg(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        draw(&area)?;
        area.present().map_err(failed)?;
    }
    Ok(text)
}

/// The drawing library's errors as ours.
pub fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

/// Server CPU per operation: a panel per value size and one for the fixed dialects, a group of bars per case, a bar per
/// peer.
pub fn bench(results: &Results) -> Result<String> {
    let closed: Vec<Case> = results.cases.iter().copied().filter(|case| case.rate.is_none()).collect();
    let panels: Vec<&[Case]> = closed.chunk_by(|one, next| panel_title(one) == panel_title(next)).collect();
    let height = 60 + 260 * panels.len().max(1) as u32;
    svg((900, height), |area| {
        let (title, below) = area.split_vertically(50);
        legend(&title, "Server CPU per operation, µs (less is better)", &results.peers)?;
        for (panel, cases) in below.split_evenly((panels.len().max(1), 1)).iter().zip(panels) {
            bars(panel, &panel_title(&cases[0]), cases, results)?;
        }
        Ok(())
    })
}

fn panel_title(case: &Case) -> String {
    let protocols = if case.dialect.is_some() { ", meta and binary protocols" } else { "" };
    format!("values of {}{protocols}", size_title(case.work.size))
}

fn legend(area: &Area<'_>, title: &str, peers: &[Peer]) -> Result<()> {
    let text = |text: String, x: i32, y: i32, size: i32| {
        let style = (FONT, size).into_font().color(&BLACK);
        area.draw(&Text::new(text, (x, y), style)).map_err(failed)
    };
    text(title.to_owned(), 60, 8, 18)?;
    let mut x = 60;
    for &peer in peers {
        let box_ = Rectangle::new([(x, 34), (x + 12, 46)], colour(peer).filled());
        area.draw(&box_).map_err(failed)?;
        text(peer.name().to_owned(), x + 18, 33, 14)?;
        x += 40 + 8 * peer.name().len() as i32;
    }
    Ok(())
}

fn bars(area: &Area<'_>, title: &str, cases: &[Case], results: &Results) -> Result<()> {
    let value = |case: &Case, peer| results.median(case, peer, |sample| sample.cpu).filter(|value| value.is_finite());
    let all = cases.iter().flat_map(|case| results.peers.iter().filter_map(|&peer| value(case, peer)));
    let top = all.fold(0.0, f64::max) * 1.15 + 1e-9;
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 15))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..cases.len() as f64, 0.0..top)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_labels(5)
        .light_line_style(TRANSPARENT)
        .draw()
        .map_err(failed)?;
    let width = 0.84 / results.peers.len() as f64;
    let font = |size| (FONT, size).into_font().color(&BLACK);
    for (group, case) in cases.iter().enumerate() {
        for (index, &peer) in results.peers.iter().enumerate() {
            let (left, value) = (group as f64 + 0.08 + width * index as f64, value(case, peer));
            let height = value.unwrap_or(0.0);
            let bar = Rectangle::new([(left, 0.0), (left + width * 0.92, height)], colour(peer).filled());
            let label = Text::new(figure(value), (left, height + top * 0.07), font(11));
            chart.draw_series([bar]).map_err(failed)?;
            chart.draw_series([label]).map_err(failed)?;
        }
    }
    under(area, &chart, cases)
}

/// The cases' names, below the middle of their groups.
fn under<'a>(
    area: &Area<'a>,
    chart: &ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedF64, RangedF64>>,
    cases: &[Case],
) -> Result<()> {
    let base = area.get_base_pixel();
    for (group, case) in cases.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(group as f64 + 0.08, 0.0));
        let at = (x - base.0, y - base.1 + 6);
        let style = (FONT, 13).into_font().color(&BLACK);
        area.draw(&Text::new(case.kind_title(), at, style)).map_err(failed)?;
    }
    Ok(())
}

/// What a panel of [`threads`] shows.
type Figure = (&'static str, fn(&Sample) -> f64);
const FIGURES: [Figure; 4] = [
    ("CPU per get, µs", |sample| sample.cpu),
    ("p99 of small gets, ms", |sample| sample.p99 / 1e3),
    ("resident memory, MiB", |sample| sample.rss / 1_048_576.0),
    ("context switches per get", |sample| sample.switches),
];

/// An event loop against threads: a column per scenario, a row per figure, all axes logarithmic.
pub fn threads(rows: &[Row]) -> Result<String> {
    let mut scenarios: Vec<&str> = rows.iter().map(|row| row.scenario).collect();
    scenarios.dedup();
    let (wide, high) = (scenarios.len().max(1), FIGURES.len());
    svg((340 * wide as u32, 50 + 210 * high as u32), |area| {
        let (title, below) = area.split_vertically(50);
        let text = "Event loop and thread per connection, by number of connections (less is better)";
        legend(&title, text, &[Peer::KingServer, Peer::Threaded])?;
        let panels = below.split_evenly((high, wide));
        for (index, panel) in panels.iter().enumerate() {
            let Some(&scenario) = scenarios.get(index % wide) else {
                continue;
            };
            let rows: Vec<&Row> = rows.iter().filter(|row| row.scenario == scenario).collect();
            lines(panel, scenario, FIGURES[index / wide], &rows)?;
        }
        Ok(())
    })
}

fn lines(area: &Area<'_>, scenario: &str, (name, pick): Figure, rows: &[&Row]) -> Result<()> {
    let value = |row: &Row| row.median(pick).filter(|value| value.is_finite()).unwrap_or(0.0).max(1e-4);
    let of = |peer| {
        let mine = rows.iter().filter(move |row| row.peer == peer);
        mine.map(|row| (row.connections as f64, value(row))).collect::<Vec<_>>()
    };
    let values = || rows.iter().map(|row| value(row));
    let (low, high) = (values().fold(f64::MAX, f64::min), values().fold(1e-4, f64::max));
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{scenario}: {name}"), (FONT, 13))
        .margin(6)
        .margin_right(20)
        .x_label_area_size(24)
        .y_label_area_size(44)
        .build_cartesian_2d((8.0..12_000.0).log_scale(), (decade(low, f64::floor)..decade(high, f64::ceil)).log_scale())
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(4)
        .x_label_formatter(&plain)
        .y_labels(6)
        .y_label_formatter(&plain)
        .draw()
        .map_err(failed)?;
    for peer in [Peer::KingServer, Peer::Threaded] {
        let line = LineSeries::new(of(peer), colour(peer).stroke_width(2)).point_size(3);
        chart.draw_series(line).map_err(failed)?;
    }
    Ok(())
}

/// The power of ten below or above, a little further out so that it gets its label.
fn decade(value: f64, round: fn(f64) -> f64) -> f64 {
    let power = round(value.log10());
    10f64.powf(power) * if round(0.5) > 0.5 { 1.01 } else { 0.99 }
}

/// Without needless zeros.
fn plain(value: &f64) -> String {
    if *value >= 1.0 { format!("{value:.0}") } else { format!("{value}") }
}
