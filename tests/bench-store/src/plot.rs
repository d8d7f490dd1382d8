//! The picture, as SVG: how many times as fast as LevelDB, a panel per value size.

use anyhow::Result;
use kingserver_bench::plot::{Area, FONT, failed, svg};
use kingserver_bench::report::figure;
use plotters::prelude::*;

use crate::report::Results;
use crate::store::Engine;
use crate::workload::{Scale, Workload};

const WIDTH: u32 = 900;
const PANEL: u32 = 230;
const TITLE: u32 = 54;

fn colour(engine: Engine) -> RGBColor {
    match engine {
        Engine::KingDb => RGBColor(204, 85, 0),
        Engine::LevelDb => RGBColor(170, 170, 170),
        Engine::RocksDb => RGBColor(31, 119, 180),
        Engine::Fjall => RGBColor(148, 103, 189),
    }
}

/// Throughput of all stores against LevelDB's.
pub fn draw(results: &Results) -> Result<String> {
    let height = TITLE + PANEL * results.scales.len().max(1) as u32;
    svg((WIDTH, height), |area| {
        let (title, below) = area.split_vertically(TITLE);
        legend(&title, &results.engines)?;
        for (panel, scale) in below.split_evenly((results.scales.len().max(1), 1)).iter().zip(&results.scales) {
            bars(panel, scale, results)?;
        }
        Ok(())
    })
}

fn legend(area: &Area<'_>, engines: &[Engine]) -> Result<()> {
    let font = |size: i32| (FONT, size).into_font().color(&BLACK);
    let title = "Times as fast as LevelDB, one thread (more is better; logarithmic)";
    area.draw(&Text::new(title, (60, 8), font(18))).map_err(failed)?;
    for (index, &engine) in engines.iter().enumerate() {
        let x = 60 + 110 * index as i32;
        let square = Rectangle::new([(x, 36), (x + 12, 48)], colour(engine).filled());
        area.draw(&square).map_err(failed)?;
        area.draw(&Text::new(engine.title(), (x + 18, 35), font(14))).map_err(failed)?;
    }
    Ok(())
}

fn bars(area: &Area<'_>, scale: &Scale, results: &Results) -> Result<()> {
    let mut workloads = results.workloads(scale);
    workloads.retain(|&workload| workload != Workload::Pwrite);
    let speed = |group: usize, engine| {
        let speed = results.speed(scale, workloads[group], engine, Engine::LevelDb);
        speed.filter(|speed| speed.is_finite() && *speed > 0.0)
    };
    let all = (0..workloads.len()).flat_map(|group| results.engines.iter().filter_map(move |&e| speed(group, e)));
    let (low, high) = all.fold((0.5_f64, 2.0_f64), |(low, high), speed| (low.min(speed), high.max(speed)));
    let mut chart = ChartBuilder::on(area)
        .caption(format!("values of {}", scale.title()), (FONT, 15))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..workloads.len() as f64, (low / 1.3..high * 1.6).log_scale())
        .map_err(failed)?;
    let label = |value: &f64| if *value >= 1.0 { format!("{value:.0}") } else { format!("{value}") };
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh().disable_x_axis().y_labels(5).y_label_formatter(&label).light_line_style(TRANSPARENT);
    mesh.draw().map_err(failed)?;
    let width = 0.84 / results.engines.len().max(1) as f64;
    let font = |size: i32| (FONT, size).into_font().color(&BLACK);
    for (group, workload) in workloads.iter().enumerate() {
        for (index, &engine) in results.engines.iter().enumerate() {
            let Some(speed) = speed(group, engine) else { continue };
            let left = group as f64 + 0.08 + width * index as f64;
            let bar = Rectangle::new([(left, 1.0), (left + width * 0.92, speed)], colour(engine).filled());
            let top = Text::new(figure(Some(speed)), (left, speed.max(1.0) * 1.25), font(10));
            chart.draw_series([bar]).map_err(failed)?;
            chart.draw_series([top]).map_err(failed)?;
        }
        let (base, (x, _)) = (area.get_base_pixel(), chart.backend_coord(&(group as f64 + 0.2, 1.0)));
        let name = Text::new(workload.name(), (x - base.0, PANEL as i32 - 26), font(13));
        area.draw(&name).map_err(failed)?;
    }
    Ok(())
}
