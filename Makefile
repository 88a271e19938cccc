# Two commands matter: `make demo` builds real images and shows them, `make test` passes every
# test. Both install what they need (Debian packages when root) on a machine that has only a Rust
# toolchain, gcc, make and git.

CARGO ?= cargo
IMAGES := target/test-images
CLIENTS := target/test-clients
KERNEL := target/test-kernel
PACKAGES := busybox-static bzip2 ca-certificates chromium curl docker.io docker-registry e2fsprogs git iproute2 libfaketime mmdebstrap \
	nodejs npm openssh-client openssl podman python3-venv qemu-system-x86 runc runsc skopeo strace uidmap util-linux xz-utils zstd
GUEST := target/guest
GUEST_PACKAGES := e2fsprogs mmdebstrap qemu-system-x86
SYSTEMD_PACKAGES := mmdebstrap util-linux

.PHONY: help setup images clients kernel build test lint unit demo walls crash guest systemd parity bench soak fuzz clean

help: ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | sort

setup: ## Install the Debian packages that tests and the demo use
	@tests/setup $(PACKAGES)

images: setup ## Make the root filesystems that tests and the demo build on
	@tests/images/make $(IMAGES)

clients: setup ## Install the clients that tests and examples drive, at pinned versions
	@tests/clients/install $(CLIENTS)

kernel: setup ## Unpack the kernel of the virtual machines that tests boot
	@tests/kernel/fetch $(KERNEL)

build: ## Build the binary
	$(CARGO) build --locked -p cofferdam

lint: ## Formatting, lints and documentation, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps

# The tests of crates/cofferdam make cargo build the binary too, which the end-to-end tests use;
# building it by itself first would compile most dependencies a second time.
unit: images clients kernel ## Every test, without the lints
	$(CARGO) test --locked --workspace --no-fail-fast

test: setup lint unit ## Everything that must pass

demo: images build ## Build a real application, run it, change a line and build again
	@examples/demo

walls: images clients kernel build ## Try every known escape at each level of isolation and show the table
	@$(CARGO) test --locked -q -p cofferdam-tests --test walls

crash: images ## Kill builders and servers at random points under load: make crash [KILLS=1000] [SEED=N]
	$(CARGO) build --release --locked -p cofferdam
	COFFERDAM_TEST_PROGRAM=$(CURDIR)/target/release/cofferdam CRASH_KILLS=$(or $(KILLS),1000) CRASH_SEED=$(SEED) \
		$(CARGO) test --locked -p cofferdam-tests --test crash -- --nocapture

guest: ## Run the sandbox's tests in a virtual machine with control groups of version 2 alone
	@tests/setup $(GUEST_PACKAGES)
	@tests/guest/run $(GUEST)

systemd: ## Start the server's unit under a real systemd, and build, kill, restart and stop
	@tests/setup $(SYSTEMD_PACKAGES)
	$(CARGO) build --release --locked -p cofferdam
	@tests/systemd/run

parity: images clients build ## Run BuildKit's own tests here and on buildkitd and compare: make parity BUILDKIT=CHECKOUT
	@test -n "$(BUILDKIT)" || { echo "say where a checkout of BuildKit is: make parity BUILDKIT=DIR" >&2; exit 2; }
	@tests/parity/run "$(BUILDKIT)" target/parity

bench: ## Measure builds beside other builders: make bench [BUILDKITD=FILE] [BUILDCTL=FILE] [ROWS=A,B] [RUNS=N]
	$(CARGO) build --release --locked -p cofferdam
	@bench/run $(if $(BUILDKITD),--buildkitd $(BUILDKITD)) $(if $(BUILDCTL),--buildctl $(BUILDCTL)) $(if $(ROWS),--rows $(ROWS)) $(if $(RUNS),--runs $(RUNS))

soak: images clients ## Keep a server with 16 projects busy for an hour, and fail if it then holds more: make soak [MINUTES=N]
	$(CARGO) build --release --locked -p cofferdam
	@tests/soak/run $(if $(MINUTES),--minutes $(MINUTES))

fuzz: ## Run each fuzz target for a minute (needs cargo-fuzz and a nightly toolchain)
	@fuzz/run

clean: ## Remove everything that was built
	$(CARGO) clean
