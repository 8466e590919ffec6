//! Lines over an axis of powers of two, as an SVG file that needs nothing else.

use std::fmt::Write as _;

pub(crate) struct Panel {
    pub(crate) title: &'static str,
    pub(crate) lines: Vec<Line>,
}

pub(crate) struct Line {
    pub(crate) name: String,
    /// From left to right.
    pub(crate) points: Vec<(u64, f64)>,
}

/// Told apart by those who see no red from green, too: Okabe and Ito's colours.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 320.0;
/// Around the area of the lines, for the words.
const LEFT: f64 = 52.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 84.0;
const BOTTOM: f64 = 36.0;
const GRID_LINES: u32 = 5;

/// Panels side by side below a title.
pub(crate) fn svg(title: &str, panels: &[Panel]) -> String {
    let width = WIDTH * panels.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{width}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    text(&mut out, (LEFT, 22.0), "start", &format!("<tspan font-weight=\"bold\">{}</tspan>", escaped(title)));
    for (index, panel) in panels.iter().enumerate() {
        panel.draw(&mut out, WIDTH * index as f64);
    }
    out + "</svg>\n"
}

impl Panel {
    fn draw(&self, out: &mut String, left: f64) {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let (Some(first), Some(last)) = (points().map(|(x, _)| *x).min(), points().map(|(x, _)| *x).max()) else {
            return;
        };
        let top = rounded_up(points().map(|(_, y)| *y).fold(0.0, f64::max));
        let octaves = (last as f64 / first as f64).log2().max(1.0);
        let at_x = |x: u64| left + LEFT + (x as f64 / first as f64).log2() / octaves * (WIDTH - LEFT - RIGHT);
        let at_y = |y: f64| HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM);

        text(out, (left + LEFT, 44.0), "start", self.title);
        for step in 0..=GRID_LINES {
            let value = top * f64::from(step) / f64::from(GRID_LINES);
            let (from, to, y) = (left + LEFT, left + WIDTH - RIGHT, at_y(value));
            let _ = writeln!(out, "<path d=\"M{from:.1} {y:.1}H{to:.1}\" stroke=\"#ddd\"/>");
            text(out, (from - 6.0, y + 4.0), "end", &format!("{value:.0}"));
        }
        let mut ticks: Vec<u64> = points().map(|(x, _)| *x).collect();
        ticks.sort_unstable();
        ticks.dedup();
        for x in ticks {
            text(out, (at_x(x), HEIGHT - BOTTOM + 18.0), "middle", &x.to_string());
        }
        for (index, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let x = left + LEFT + 92.0 * index as f64;
            let _ = writeln!(out, "<circle cx=\"{:.1}\" cy=\"62\" r=\"4\" fill=\"{colour}\"/>", x + 4.0);
            text(out, (x + 12.0, 66.0), "start", &escaped(&line.name));
            let path: Vec<String> =
                line.points.iter().map(|&(x, y)| format!("{:.1} {:.1}", at_x(x), at_y(y))).collect();
            if !path.is_empty() {
                let path = path.join("L");
                let _ = writeln!(out, "<path d=\"M{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
            }
            for &(x, y) in &line.points {
                let (at_x, at_y, name) = (at_x(x), at_y(y), escaped(&line.name));
                let _ = writeln!(
                    out,
                    "<circle cx=\"{at_x:.1}\" cy=\"{at_y:.1}\" r=\"3.5\" fill=\"{colour}\"><title>{name}, {x}: {y:.1}</title></circle>"
                );
            }
        }
    }
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// The next of 1, 2, 2.5 and 5 times a power of ten.
fn rounded_up(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1.0).log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|top| *top >= value).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_a_point_and_what_is_missing_none() {
        let line = |name: &str, points: &[(u64, f64)]| Line { name: name.to_owned(), points: points.to_vec() };
        let lines = vec![line("a<b", &[(1, 40.0), (4, 120.0)]), line("c", &[(1, 10.0)]), line("d", &[])];
        let drawn = svg("one & two", &[Panel { title: "rate", lines }, Panel { title: "none", lines: Vec::new() }]);
        let points: Vec<&str> =
            drawn.split("<title>").skip(1).map(|rest| rest.split("</title>").next().unwrap()).collect();
        assert_eq!(points, ["a&lt;b, 1: 40.0", "a&lt;b, 4: 120.0", "c, 1: 10.0"]);
        // The axis ends at 200, so that 120 stands at three fifths of its height, and the last x at its right end.
        assert!(drawn.contains("<circle cx=\"424.0\" cy=\"164.0\""), "{drawn}");
        assert!(drawn.contains("one &amp; two"), "{drawn}");
    }
}
