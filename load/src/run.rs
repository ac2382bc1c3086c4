//! A whole run: starts the fleet, goes through the scenarios in interleaved rounds, prints, writes the report.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Runtime;

use crate::budget::{self, Yardstick};
use crate::child::Child;
use crate::features::Features;
use crate::fleet::{Recipe, Running, first_answer, start_mock, start_redis};
use crate::gateway;
use crate::machine::{self, Cores, Machine};
use crate::memory;
use crate::proc::Memory;
use crate::report::{self, MemoryReport, Report, ScenarioReport};
use crate::scenario::{self, Name, Scenario};
use crate::statistics::{Comparison, Summary};
use crate::target::Target;
use crate::window::{self, Span};

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which scenarios; empty means the default ones.
    pub scenarios: Vec<Name>,
    /// Rounds for each scenario.
    pub rounds: usize,
    /// How long each window is.
    pub span: Span,
    /// How long slow readers refuse to read.
    pub slow: Duration,
    /// How often a target is started to measure how long that takes.
    pub starts: usize,
    /// Requests a second in the scenario `rate`.
    pub rate: f64,
    /// Cores for the target.
    pub target_cores: usize,
    /// The gateway.
    pub subject: Subject,
    /// The folder for the report.
    pub out: PathBuf,
    /// A mock that runs already, instead of an own one.
    pub mock: Option<SocketAddr>,
}

/// What is compared with the baseline.
#[derive(Clone, Debug)]
pub enum Subject {
    /// Nothing: only the baseline is measured.
    Nothing,
    /// A `marg` that the harness configures and starts.
    Marg {
        /// The binary.
        marg: PathBuf,
        /// The level of its log.
        log_level: String,
        /// What is switched on.
        features: Features,
        /// What is switched on in another copy that takes the place of the empty pass-through.
        against: Option<Features>,
    },
    /// Something that runs already.
    External(Target),
}

/// Runs everything. The report says whether each window was valid and each figure within its budget.
///
/// # Errors
/// When a process cannot be started or ends, or the report cannot be written.
pub fn run(plan: &Plan) -> anyhow::Result<Report> {
    machine::raise_descriptor_limit().context("raise the limit of open files")?;
    crate::child::end_with_the_harness().context("watch for signals")?;
    let cores = Cores::divide(plan.target_cores)?;
    let described = Machine::describe(thread::available_parallelism()?.get())?;
    machine::pin(&cores.load).context("pin the load")?;
    let folder = scratch_folder()?;
    let result = Bench::set_up(plan, cores, &folder).and_then(|bench| bench.run(described));
    if result.is_ok() {
        fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    } else {
        eprintln!("what the processes left is in {}", folder.display());
    }
    result
}

/// An empty folder for configuration, data and error streams.
fn scratch_folder() -> anyhow::Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("marg-load-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}

/// A gateway with a folder of its own.
fn prepare(name: &'static str, folder: &Path, wanted: &gateway::Wanted) -> anyhow::Result<Recipe> {
    let folder = folder.join(name);
    fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
    gateway::recipe(name, &folder, wanted).with_context(|| format!("prepare the {name}"))
}

/// What stays the same during a run.
struct Bench<'a> {
    plan: &'a Plan,
    cores: Cores,
    folder: &'a Path,
    runtime: Runtime,
    baseline: Recipe,
    /// The gateway, if the harness starts it.
    gateway: Option<Recipe>,
    /// What that gateway is.
    wanted: Option<gateway::Wanted>,
    /// Kept so that they live as long as the run.
    _helpers: Vec<Child>,
}

impl<'a> Bench<'a> {
    fn set_up(plan: &'a Plan, cores: Cores, folder: &'a Path) -> anyhow::Result<Self> {
        let load_threads = cores.load.len().div_ceil(2);
        let mut helpers = Vec::new();
        let mock = match plan.mock {
            Some(address) => address,
            None => {
                let (child, address) = start_mock(folder, &cores, load_threads)?;
                helpers.push(child);
                address
            }
        };
        let threads = cores.target.len();
        let (mut gateway, mut kept) = (None, None);
        let mut baseline = Recipe::baseline(mock, threads)?;
        if let Subject::Marg { marg, log_level, features, against } = &plan.subject {
            let mut wanted = gateway::Wanted {
                marg: marg.clone(),
                mock,
                threads,
                log_level: log_level.clone(),
                features: *features,
                redis: None,
            };
            if features.redis || against.is_some_and(|against| against.redis) {
                let (child, address) = start_redis(folder, &cores)?;
                helpers.push(child);
                wanted.redis = Some(address);
            }
            gateway = Some(prepare("gateway", folder, &wanted)?);
            kept = Some(wanted.clone());
            if let Some(features) = *against {
                baseline = prepare("baseline", folder, &gateway::Wanted { features, ..wanted })?;
            }
        }
        let runtime = machine::runtime(load_threads)?;
        Ok(Self { plan, runtime, baseline, gateway, wanted: kept, cores, folder, _helpers: helpers })
    }

    fn run(&self, machine: Machine) -> anyhow::Result<Report> {
        let names =
            if self.plan.scenarios.is_empty() { scenario::DEFAULT.to_vec() } else { self.plan.scenarios.clone() };
        let mut report = Report::begin(machine, self.cores.clone(), self.plan);
        report::print_head(&report);
        report.memory = self.memory(&names)?;
        let scenarios: Vec<Scenario> = names.iter().filter_map(|name| name.scenario(self.plan.rate)).collect();
        if !scenarios.is_empty() {
            self.rounds(&scenarios, &mut report)?;
        }
        let yardstick = match &self.plan.subject {
            Subject::Marg { features, against: Some(against), .. } => Yardstick::of(features, against),
            _ => Yardstick::PassThrough,
        };
        report.budget = budget::lines(&report, yardstick);
        report::print_end(&report);
        Ok(report)
    }

    /// Runs the scenarios about memory, each with fresh processes.
    fn memory(&self, names: &[Name]) -> anyhow::Result<Vec<MemoryReport>> {
        let mut found = Vec::new();
        for recipe in [Some(&self.baseline), self.gateway.as_ref()].into_iter().flatten() {
            let idle = names
                .contains(&Name::Idle)
                .then(|| memory::idle(recipe, self.folder, &self.cores, self.plan.starts).context("scenario idle"));
            let slow = names
                .contains(&Name::Slow)
                .then(|| memory::slow(recipe, self.folder, &self.cores, self.plan.slow).context("scenario slow"));
            let (idle, slow, keys) = (idle.transpose()?, slow.transpose()?, self.keys(recipe, names)?);
            let report = MemoryReport { target: recipe.target.name, idle, slow, keys };
            report::print_memory(&report);
            found.push(report);
        }
        Ok(found)
    }

    /// The memory of many keys; the baseline has none. They stay in the folder of the gateway, whose later figures hold them too, so
    /// a gateway of its own is made for it.
    fn keys(&self, recipe: &Recipe, names: &[Name]) -> anyhow::Result<Option<memory::Keys>> {
        let ours = self.gateway.as_ref().is_some_and(|gateway| gateway.target.name == recipe.target.name);
        let Some(wanted) = self.wanted.as_ref().filter(|_| ours && names.contains(&Name::Keys)) else {
            return Ok(None);
        };
        let recipe = prepare("keys", self.folder, wanted)?;
        let own = self.folder.join("keys");
        let add = || self.runtime.block_on(gateway::add_keys(&own, gateway::MANY_KEYS));
        let found = memory::keys(&recipe, self.folder, &self.cores, gateway::MANY_KEYS, add);
        found.context("scenario keys").map(Some)
    }

    /// Runs the scenarios under load on one pair of processes.
    fn rounds(&self, scenarios: &[Scenario], report: &mut Report) -> anyhow::Result<()> {
        let mut targets = vec![self.baseline.start(self.folder, &self.cores)?];
        match (&self.gateway, &self.plan.subject) {
            (Some(recipe), _) => targets.push(recipe.start(self.folder, &self.cores)?),
            (None, Subject::External(target)) => {
                first_answer(target).with_context(|| format!("ask {}", target.address))?;
                targets.push(Running::external(target.clone()));
            }
            (None, _) => {}
        }
        for scenario in scenarios {
            let done = self.scenario(scenario, &mut targets).with_context(|| format!("scenario {}", scenario.name))?;
            report::print_scenario(&done);
            report.scenarios.push(done);
        }
        for running in targets {
            let (name, pid) = (running.target.name, running.target.pid);
            if let Some(memory) = pid.map(Memory::take).transpose()? {
                report.memory_at_end.push((name, memory));
            }
            running.stop()?;
        }
        Ok(())
    }

    /// One scenario: baseline, gateway, baseline, gateway …
    fn scenario(&self, scenario: &Scenario, targets: &mut [Running]) -> anyhow::Result<ScenarioReport> {
        let mut windows = vec![Vec::new(); targets.len()];
        for _ in 0..self.plan.rounds {
            for (running, windows) in targets.iter_mut().zip(&mut windows) {
                let request = scenario.ask.of(&running.target);
                let window = window::run(&running.target, &request, scenario.drive, self.plan.span, &self.runtime);
                running.ensure_alive()?;
                windows.push(window?);
            }
        }
        let mut sides = windows.into_iter();
        let baseline = sides.next().unwrap_or_default();
        let gateway = sides.next().unwrap_or_default();
        Ok(ScenarioReport {
            name: scenario.name,
            unit: scenario.unit.word(),
            baseline: Summary::of(&baseline, scenario.unit),
            gateway: (!gateway.is_empty()).then(|| Summary::of(&gateway, scenario.unit)),
            comparison: Comparison::of(&baseline, &gateway, scenario.unit),
            baseline_windows: baseline,
            gateway_windows: gateway,
        })
    }
}
