//! The page in a real browser: headless Chromium, where there is one.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use taper_report::{
    EpochReport, FiringRates, Histogram, LayerLine, LayerStats, Metric, MetricKind, Octaves, Run, RunDir,
    Score, Sink, SiteSteps, Split, SplitReport, StepReport, read_lines,
};
use taper_view::{html_report, load_runs};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Notes everything that the page complains about, from before its first element.
const WATCH: &str = r#"<script>
  window.complaints = [];
  addEventListener("error", (e) => complaints.push("error: " + (e.message || e.target.outerHTML)), true);
  addEventListener("unhandledrejection", (e) => complaints.push("rejection: " + e.reason));
  addEventListener("securitypolicyviolation", (e) => complaints.push("policy: " + e.violatedDirective + " " + e.blockedURI));
  for (const kind of ["error", "warn", "log", "info"]) console[kind] = (...what) => complaints.push(kind + ": " + what.join(" "));
</script>"#;

/// Clicks through the page, then records its state.
const REPORT: &str = r##"<script>
  const settle = () => new Promise((done) => setTimeout(done, 400));
  const look = () => [...document.querySelectorAll(".chart")].map((chart) => ({
    label: chart.getAttribute("aria-label"),
    curves: chart.plot?.curves ?? 0,
    points: chart.plot?.points ?? [],
    drawn: chart.querySelectorAll("canvas").length,
  }));
  addEventListener("load", async () => {
    await settle();
    const seen = { ready: Number(document.documentElement.dataset.ready), first: look() };
    document.querySelector("[data-window=train]").click();
    document.querySelector("#theme").click();
    document.querySelector("[data-hue='1']").click();
    await settle();
    seen.clicked = look();
    seen.dark = document.documentElement.classList.contains("dark");
    const mouse = (of) => of.dispatchEvent(new MouseEvent("mouseover", { bubbles: true }));
    mouse(document.querySelector("h3[data-tip]"));
    seen.tip = document.getElementById("tip").textContent;
    const chart = document.querySelector(".chart .u-over");
    const box = chart.getBoundingClientRect();
    chart.dispatchEvent(new MouseEvent("mouseenter", { clientX: box.left + 5, clientY: box.top + 5 }));
    chart.dispatchEvent(new MouseEvent("mousemove", { bubbles: true, clientX: box.left + box.width / 2, clientY: box.top + 5 }));
    await settle();
    const tip = document.getElementById("tip").getBoundingClientRect();
    seen.hover = document.getElementById("tip").textContent;
    seen.covers = tip.top < chart.closest(".chart").getBoundingClientRect().bottom && tip.bottom > chart.closest(".chart").getBoundingClientRect().top;
    const zeros = document.querySelector("#answer-of-runs thead th:nth-child(3)");
    zeros.click();
    seen.sorted = [...document.querySelectorAll("#answer-of-runs tbody td.bar")].map((cell) => Number(cell.dataset.v));
    seen.table = [...document.querySelectorAll("tr[data-run]")].map((row) => ({
      run: row.dataset.run,
      site: row.closest("div[data-site]").querySelector("h3").textContent,
      of: Object.fromEntries([...row.querySelectorAll("[data-v]")].map((cell) => [cell.dataset.f, Number(cell.dataset.v)])),
    }));
    seen.wider = document.documentElement.scrollWidth > innerWidth;
    seen.complaints = complaints;
    const out = document.createElement("pre");
    out.id = "seen";
    out.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(seen))));
    document.body.append(out);
  });
</script>"##;

fn chromium() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name))).find(|file| file.is_file())
}

/// The page's own account of itself, and what Chromium printed.
fn open(chromium: &Path, dir: &Path, page: &str) -> Result<Value> {
    let file = dir.join("page.html");
    let page = page.replacen("<head>", &format!("<head>{WATCH}"), 1);
    let (before, after) = page.rsplit_once("</body>").ok_or("a page has a body")?;
    fs::write(&file, format!("{before}{REPORT}</body>{after}"))?;
    let output = Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--window-size=1400,1000", "--virtual-time-budget=120000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", dir.join("profile").display()))
        .arg(format!("file://{}#all", file.display()))
        .output()?;
    let dom = String::from_utf8_lossy(&output.stdout);
    let seen = dom
        .rsplit_once("<pre id=\"seen\">")
        .and_then(|(_, rest)| rest.split_once("</pre>"))
        .ok_or_else(|| format!("no account of the page: {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok(serde_json::from_slice(&base64(seen.0))?)
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|c| *c != b'=').map(digit).collect();
    let bytes = digits.chunks(4).flat_map(|four| {
        let n = four.iter().fold(0_u32, |n, digit| n << 6 | u32::from(*digit)) << (6 * (4 - four.len()));
        [(n >> 16) as u8, (n >> 8) as u8, n as u8].into_iter().take(four.len() - 1)
    });
    bytes.collect()
}

/// 4 activations × 2 dropout rates × 3 seeds, three sites, ten epochs.
fn write_grid(dir: &Path, sites: [&str; 3]) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for (i, activation) in ["relu", "selu", "tanh", "sigmoid"].into_iter().enumerate() {
        for dropout in [0.0, 0.5] {
            for seed in 1..=3 {
                let name = format!("{activation}-dropout{dropout}-seed{seed}");
                let mut sink = RunDir::create(dir.join(&name))?;
                sink.begin(&Run {
                    name,
                    dataset: "digits".into(),
                    model: "mlp".into(),
                    labels: [("act".to_string(), activation.into()), ("dropout".into(), dropout.into())]
                        .into(),
                    loss: "mean cross-entropy per sample, in nats".into(),
                    seed,
                    parameters: 12345,
                    epochs: 10,
                    config: serde_json::json!({"lr": 0.001}),
                    ..Run::default()
                })?;
                for step in 1..=60 {
                    sink.step(&step_report(step, sites, dropout))?;
                }
                for epoch in 1..=10 {
                    let splits = [Split::Train, Split::Test].map(|split| {
                        let accuracy =
                            Metric { name: "accuracy".into(), kind: MetricKind::Share, value: 0.8 };
                        let loss = 1.0 / f64::from(epoch);
                        let score = Score { loss, samples: 100, metrics: vec![accuracy], ..Score::default() };
                        let layer = |site: &&str| layer(site, activation, i, dropout, seed, epoch);
                        let layers = sites.iter().map(layer).collect();
                        SplitReport { seconds: 0.1, layers, ..SplitReport::new(split, score) }
                    });
                    sink.epoch(&EpochReport { epoch, splits: splits.into() })?;
                }
                paths.push(sink.path().to_path_buf());
            }
        }
    }
    Ok(paths)
}

/// A window of one step of ten samples.
fn step_report(step: u64, sites: [&str; 3], dropout: f64) -> StepReport {
    let accuracy = Metric { name: "accuracy".into(), kind: MetricKind::Share, value: 0.5 };
    let site = |site: &str| SiteSteps {
        site: site.into(),
        units: 64,
        zero_fraction: 0.5 + 0.001 * step as f64 * dropout,
        dead: Some(0),
        mean: Some(0.3),
        std: Some(1.0),
        octaves: Some(Octaves { zeros: 50, negative: [0; 8], positive: [10, 10, 10, 10, 9, 1, 0, 0] }),
    };
    StepReport {
        step,
        steps: 1,
        score: Score { loss: 1.0 / step as f64, samples: 10, metrics: vec![accuracy], ..Score::default() },
        learning_rate: 0.1,
        sites: sites.map(site).into(),
        parameters: Vec::new(),
    }
}

fn layer(site: &str, activation: &str, i: usize, dropout: f64, seed: u64, epoch: u32) -> LayerStats {
    let mut histogram = Histogram::default();
    // Values over seven decades of magnitude: as many bins as real layers fill.
    for k in 0..20_000_u32 {
        let x = (k as f32 / 20_000.0 * 14.0 - 10.0).exp2() * (1.0 + 0.01 * seed as f32);
        let sign = if i > 0 && k % 2 == 0 { -1.0 } else { 1.0 };
        (0..1 + k % 7).for_each(|_| histogram.add(sign * x));
    }
    if i == 0 {
        histogram.zeros = 30_000 + 1000 * seed + u64::from(epoch);
    }
    let total = histogram.total();
    LayerStats {
        site: site.into(),
        activation: Some(activation.into()),
        uses: 1,
        units: 64,
        samples: 100,
        values: total,
        zeros: histogram.zeros,
        zero_fraction: histogram.zeros as f64 / total as f64,
        mean: Some(0.1 + dropout / 3.0),
        variance: Some(1.0 / f64::from(epoch)),
        skewness: Some(-1.0 / 3.0),
        excess_kurtosis: (i != 2).then_some(0.7),
        asymmetry: histogram.asymmetry(),
        histogram: Some(histogram),
        dead: Some(seed),
        died: (epoch > 1).then_some(1),
        revived: (epoch > 1).then_some(0),
        dormant_0_025: Some(2 * seed),
        flat_low: Some(0.01),
        flat_high: Some(0.02),
        firing_rate: FiringRates { never: 4, between: [3; 20], always: 0 },
        population_sparseness: Some(0.4),
        ..LayerStats::default()
    }
}

#[test]
fn every_chart_is_drawn_without_complaint_and_the_table_equals_the_files() -> Result {
    let Some(chromium) = chromium() else {
        println!("skipped: no chromium");
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let long = "n".repeat(200);
    let sites = ["fc1", "</script><img src=x onerror=alert(1)>\"'", &long];
    let paths = write_grid(&dir.path().join("grid"), sites)?;
    let (runs, errors) = load_runs(&[dir.path().join("grid")]);
    assert!(errors.is_empty() && runs.len() == 24);
    let page = html_report(&runs);
    assert!(page.len() < 1_000_000, "{} bytes", page.len());

    let seen = open(&chromium, dir.path(), &page)?;
    assert_eq!(seen["complaints"], serde_json::json!([]));
    assert_eq!(seen["wider"], false, "the page is wider than its window");
    assert!(seen["tip"].as_str().is_some_and(|tip| tip.contains("exactly 0")), "{}", seen["tip"]);
    let hover = seen["hover"].as_str().unwrap_or_default();
    assert!(hover.starts_with("step ") && hover.contains("relu, dropout 0.5"), "{hover}");
    assert_eq!(seen["covers"], false, "the hover box covers its chart");
    let sorted: Vec<f64> = serde_json::from_value(seen["sorted"].clone())?;
    assert!(sorted.len() == 24 && sorted.is_sorted_by(|a, b| a >= b), "{sorted:?}");

    // Three measures of three sites and two scores over steps; two scores on two splits; of every site and group the
    // densities and the heat map, and of every site the last epoch; six further measures, zeros and mean over the epochs,
    // and firing rates.
    let charts = seen["first"].as_array().ok_or("a list")?;
    assert_eq!(charts.len(), (3 * 3 + 2) + 2 * 2 + 3 * (2 * 8 + 1) + 3 * (6 + 2 + 1));
    for (chart, clicked) in charts.iter().zip(seen["clicked"].as_array().ok_or("a list")?) {
        let label = chart["label"].as_str().unwrap_or_default();
        assert_eq!(chart["drawn"], 1, "{chart}");
        let points: Vec<u64> = serde_json::from_value(chart["points"].clone())?;
        assert!(!points.is_empty() && points.iter().all(|n| *n > 0), "{chart}");
        if label.starts_with("Zeros of") && points.len() == 16 {
            assert!(points.iter().max() >= Some(&50), "fewer than 50 points a layer: {chart}");
        }
        let hides = clicked["curves"].as_u64() < chart["curves"].as_u64();
        let of_one = label.starts_with("distribution of") && !label.ends_with("in the last epoch");
        assert!(hides || of_one, "{label}: selu is still shown");
    }

    let mut compared = 0;
    let mut rows: BTreeMap<(String, String), &Value> = BTreeMap::new();
    for row in seen["table"].as_array().ok_or("a list")? {
        let name = |key: &str| row[key].as_str().unwrap_or_default().to_string();
        rows.insert((name("run"), name("site")), &row["of"]);
    }
    for path in paths {
        let run = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_string();
        let lines: Vec<LayerLine> = read_lines(path.join("layers.jsonl"))?;
        for line in lines.iter().filter(|line| line.epoch == 10 && line.split == Split::Test) {
            let site = &line.of.site;
            let shown =
                if site.len() == 200 { format!("{}…{}", &site[..53], &site[..26]) } else { site.clone() };
            let row = rows.get(&(run.clone(), shown)).ok_or_else(|| format!("no row for {run} {site}"))?;
            let of = serde_json::to_value(line)?;
            for field in
                ["zero_fraction", "dead", "units", "died", "mean", "skewness", "excess_kurtosis", "asymmetry"]
            {
                assert_eq!(row[field].as_f64(), of[field].as_f64(), "{run} {site} {field}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 24 * 3 * 8);
    Ok(())
}
