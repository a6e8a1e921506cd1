//! Line charts as SVG, written by hand: a few panels one under the other, each with axes, series and a legend.

use std::collections::BTreeSet;
use std::fmt::Write;

const WIDTH: f64 = 760.0;
const PANEL_HEIGHT: f64 = 320.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 48.0;
/// Distinct also for readers who do not see all colours (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// How values become distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal differences, from zero.
    Linear,
    /// Equal ratios.
    Log,
}

/// One axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it shows, with the unit.
    pub title: String,
    /// How.
    pub scale: Scale,
    /// What is written at a value.
    pub label: fn(f64) -> String,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

/// One chart.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Its title.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The lines.
    pub series: Vec<Series>,
}

/// The panels as one SVG document; those without a point are left out.
pub fn svg(panels: &[Panel]) -> String {
    let panels: Vec<&Panel> =
        panels.iter().filter(|panel| panel.series.iter().any(|series| !series.points.is_empty())).collect();
    let height = PANEL_HEIGHT * panels.len().max(1) as f64;
    let mut out = document(height);
    for (number, panel) in panels.iter().enumerate() {
        let y = PANEL_HEIGHT * number as f64;
        // Writing to a string cannot fail.
        let _ = writeln!(out, "<g transform=\"translate(0 {y})\">");
        panel.draw(&mut out);
        out += "</g>\n";
    }
    out + "</svg>\n"
}

/// The values an axis spans, and its marks.
struct Span {
    low: f64,
    high: f64,
    marks: Vec<f64>,
    scale: Scale,
}

impl Span {
    fn of(values: impl Iterator<Item = f64>, scale: Scale) -> Span {
        let finite = values.filter(|value| value.is_finite() && (scale == Scale::Linear || *value > 0.0));
        let (low, high) =
            finite.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        match scale {
            _ if low > high => Span { low: 0.0, high: 1.0, marks: vec![0.0, 1.0], scale: Scale::Linear },
            Scale::Linear => linear(high.max(1e-9)),
            Scale::Log => logarithmic(low, high),
        }
    }

    /// Where a value lies, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
        }
    }
}

/// From zero to the next round number, in about five steps of 1, 2 or 5.
fn linear(high: f64) -> Span {
    let rough = high / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * power).find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(power);
    let count = (high / step).ceil().max(1.0);
    let marks = (0..=count as u32).map(|number| f64::from(number) * step).collect();
    Span { low: 0.0, high: count * step, marks, scale: Scale::Linear }
}

/// Whole powers of ten around the values.
fn logarithmic(low: f64, high: f64) -> Span {
    let first = low.log10().floor();
    let last = high.log10().ceil().max(first + 1.0);
    let count = (last - first) as i32;
    let marks = (0..=count).map(|number| 10_f64.powf(first + f64::from(number))).collect();
    Span { low: 10_f64.powf(first), high: 10_f64.powf(last), marks, scale: Scale::Log }
}

impl Panel {
    fn draw(&self, out: &mut String) {
        let points = || self.series.iter().flat_map(|series| series.points.iter());
        let x = Span::of(points().map(|point| point.0), self.x.scale);
        let y = Span::of(points().map(|point| point.1), self.y.scale);
        let across = |value: f64| LEFT + x.place(value) * (WIDTH - LEFT - RIGHT);
        let down = |value: f64| PANEL_HEIGHT - BOTTOM - y.place(value) * (PANEL_HEIGHT - TOP - BOTTOM);
        // Writing to a string cannot fail.
        let _ = self.draw_axes(out, &x, &y, &across, &down);
        for (number, series) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let _ = series.draw(out, colour, &across, &down);
            let at = TOP + 16.0 * number as f64;
            let _ = writeln!(
                out,
                "<text x=\"{}\" y=\"{at}\" fill=\"{colour}\">{}</text>",
                WIDTH - RIGHT + 10.0,
                escape(&series.name)
            );
        }
    }

    fn draw_axes(
        &self,
        out: &mut String,
        x: &Span,
        y: &Span,
        across: &impl Fn(f64) -> f64,
        down: &impl Fn(f64) -> f64,
    ) -> std::fmt::Result {
        let (right, bottom) = (WIDTH - RIGHT, PANEL_HEIGHT - BOTTOM);
        let middle = (LEFT + right) / 2.0;
        writeln!(out, "<text x=\"{LEFT}\" y=\"20\" font-weight=\"bold\">{}</text>", escape(&self.title))?;
        for &mark in &x.marks {
            let at = across(mark);
            writeln!(
                out,
                "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>"
            )?;
            let label = escape(&(self.x.label)(mark));
            writeln!(
                out,
                "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
                bottom + 16.0
            )?;
        }
        for &mark in &y.marks {
            let at = down(mark);
            writeln!(
                out,
                "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>"
            )?;
            let label = escape(&(self.y.label)(mark));
            writeln!(
                out,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                LEFT - 6.0,
                at + 4.0
            )?;
        }
        let title = escape(&self.x.title);
        writeln!(out, "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{title}</text>", bottom + 36.0)?;
        let (title, middle) = (escape(&self.y.title), (TOP + bottom) / 2.0);
        writeln!(
            out,
            "<text transform=\"translate(16 {middle}) rotate(-90)\" text-anchor=\"middle\">{title}</text>"
        )
    }
}

impl Series {
    fn draw(
        &self,
        out: &mut String,
        colour: &str,
        across: &impl Fn(f64) -> f64,
        down: &impl Fn(f64) -> f64,
    ) -> std::fmt::Result {
        let places: Vec<String> =
            self.points.iter().map(|&(x, y)| format!("{:.1},{:.1}", across(x), down(y))).collect();
        writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"/>",
            places.join(" ")
        )?;
        // Dots only where they can be distinguished.
        if places.len() <= 24 {
            for &(x, y) in &self.points {
                writeln!(
                    out,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.6\" fill=\"{colour}\"/>",
                    across(x),
                    down(y)
                )?;
            }
        }
        Ok(())
    }
}

/// A chart of horizontal bars in groups.
#[derive(Clone, Debug)]
pub struct Bars {
    /// Its title.
    pub title: String,
    /// Each group: its name, and its bars by name.
    pub groups: Vec<(String, Vec<(String, f64)>)>,
}

/// Bars as an SVG document, with a line at 1.
pub fn bars(chart: &Bars) -> String {
    const BAR: f64 = 16.0;
    const GAP: f64 = 26.0;
    let count = |group: &(String, Vec<_>)| group.1.len() as f64;
    let height = TOP + chart.groups.iter().map(|group| GAP + BAR * count(group)).sum::<f64>() + 16.0;
    let values = chart.groups.iter().flat_map(|group| group.1.iter().map(|bar| bar.1));
    let span = Span::of(values.filter(|value| value.is_finite()).chain([1.0]), Scale::Linear);
    let (left, room) = (LEFT, WIDTH - LEFT - RIGHT);
    // The same name has the same colour in every group.
    let names: BTreeSet<&str> =
        chart.groups.iter().flat_map(|group| group.1.iter().map(|bar| &*bar.0)).collect();
    let colour_of = |name: &str| {
        let place = names.iter().position(|other| *other == name).unwrap_or(0);
        COLOURS[place % COLOURS.len()]
    };
    let mut out = document(height);
    // Writing to a string cannot fail.
    let _ = writeln!(out, "<text x=\"16\" y=\"20\" font-weight=\"bold\">{}</text>", escape(&chart.title));
    let mut y = TOP;
    for (name, bars) in &chart.groups {
        let _ = writeln!(out, "<text x=\"16\" y=\"{}\">{}</text>", y + 14.0, escape(name));
        y += GAP - 6.0;
        for (name, value) in bars {
            let (colour, width) = (colour_of(name), span.place(*value).max(0.0) * room);
            let (base, name) = (y + 12.0, escape(name));
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{base}\" text-anchor=\"end\">{name}</text>\n<rect x=\"{left}\" y=\"{y}\" \
                 width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/>\n<text x=\"{:.1}\" y=\"{base}\">{value:.2}</text>",
                left - 6.0,
                BAR - 3.0,
                left + width + 6.0
            );
            y += BAR;
        }
        y += 6.0;
    }
    let one = left + span.place(1.0) * room;
    let _ = writeln!(
        out,
        "<line x1=\"{one:.1}\" y1=\"{TOP}\" x2=\"{one:.1}\" y2=\"{y}\" stroke=\"#888\" stroke-dasharray=\"4 3\"/>"
    );
    out + "</svg>\n"
}

/// The beginning of a document of this height.
fn document(height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} \
         {height}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" \
         fill=\"white\"/>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A count at an axis: 500, 10k, 1M.
pub fn count_label(value: f64) -> String {
    match value.abs() {
        1e9.. => format!("{}G", trim(value / 1e9)),
        1e6.. => format!("{}M", trim(value / 1e6)),
        1e3.. => format!("{}k", trim(value / 1e3)),
        _ => trim(value),
    }
}

/// Nanoseconds at an axis: 10 µs, 1 ms.
pub fn ns_label(value: f64) -> String {
    match value.abs() {
        1e9.. => format!("{} s", trim(value / 1e9)),
        1e6.. => format!("{} ms", trim(value / 1e6)),
        1e3.. => format!("{} µs", trim(value / 1e3)),
        _ => format!("{} ns", trim(value)),
    }
}

fn trim(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale) -> Axis {
        Axis { title: "a < b".into(), scale, label: count_label }
    }

    #[test]
    fn every_point_lies_within_the_panel() {
        let points: Vec<(f64, f64)> = vec![(1.0, 0.5), (1_000.0, 99.0), (1e6, 1e5)];
        for scale in [Scale::Linear, Scale::Log] {
            for &(x, y) in &points {
                let span = |values: Vec<f64>| Span::of(values.into_iter(), scale);
                let across = span(points.iter().map(|point| point.0).collect()).place(x);
                let down = span(points.iter().map(|point| point.1).collect()).place(y);
                assert!((0.0..=1.0).contains(&across) && (0.0..=1.0).contains(&down), "{across} {down}");
            }
        }
    }

    #[test]
    fn a_document_is_well_formed() {
        let series = Series { name: "x & y".into(), points: vec![(1.0, 1.0), (2.0, 3.0)] };
        let panel =
            Panel { title: "t".into(), x: axis(Scale::Log), y: axis(Scale::Linear), series: vec![series] };
        let document = svg(&[panel]);
        assert!(document.contains("x &amp; y") && document.contains("a &lt; b"));
        assert_eq!(document.matches("<g ").count(), document.matches("</g>").count());
        assert!(!document.contains("NaN"));
    }

    #[test]
    fn bars_stay_within_the_chart() {
        let group = ("a & b".to_owned(), vec![("x".to_owned(), 0.7), ("y".to_owned(), 2.4)]);
        let document = bars(&Bars { title: "t".into(), groups: vec![group] });
        assert_eq!(document.matches("<rect ").count(), 3);
        assert!(document.contains("a &amp; b") && !document.contains("NaN"));
    }

    #[test]
    fn labels() {
        assert_eq!((&*count_label(1_500.0), &*count_label(2e6)), ("1.5k", "2M"));
        assert_eq!((&*ns_label(1e4), &*ns_label(5e8)), ("10 µs", "500 ms"));
    }

    #[test]
    fn no_points_are_no_panel() {
        let panel = Panel { title: "t".into(), x: axis(Scale::Log), y: axis(Scale::Log), series: Vec::new() };
        assert!(!svg(&[panel]).contains("<g "));
    }
}
