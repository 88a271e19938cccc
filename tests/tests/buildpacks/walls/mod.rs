//! What a hostile buildpack finds and does, in both flows. Each attempt has a control that succeeds where the wall is not.

mod leaving;
mod reading;
mod resources;
mod writing;

use cofferdam_tests::buildpacks::{Flow, Workshop};
use cofferdam_tests::{Context, Outcome};

/// A buildpack `test/hostile` whose programs both do this, after a harmless `test/victim` with a layer.
struct Attack {
    workshop: Workshop,
    builder: String,
    app: Context,
}

const VICTIM: &str = r#"
mkdir -p "$CNB_LAYERS_DIR/tool/bin"
echo original > "$CNB_LAYERS_DIR/tool/data"
printf '[types]\nlaunch = true\nbuild = true\n' > "$CNB_LAYERS_DIR/tool.toml"
"#;

impl Attack {
    /// `detect` must not fail: what it finds is what it says.
    fn new(detect: &str, build: &str) -> Self {
        let workshop = Workshop::new();
        workshop.buildpack("victim", "exit 0", VICTIM);
        workshop.buildpack("hostile", &format!("{detect}\nexit 0"), build);
        let builder = workshop.image("builder", &["victim", "hostile"]);
        Self { workshop, builder, app: Context::new(&[("file", "of the app")]) }
    }

    fn build(&self, flow: Flow) -> Outcome {
        self.workshop.build(&self.app, &self.builder, flow).run()
    }

    /// What `bin/detect` and `bin/build` of the hostile buildpack said.
    fn said(&self, flow: Flow) -> [String; 2] {
        let outcome = self.build(flow).success();
        [&*flow.detect("test/hostile@1.0.0"), "[build] test/hostile@1.0.0"]
            .map(|step| outcome.log(step))
    }
}
