//! Control requests: any kinds in any order, right, nearly right or arbitrary; hello comes first in half of the inputs.
//!
//! Every request gets exactly one answer, now or when the mortuary frees its tasks, and what the device keeps of lists stays
//! within its caps.

use arbitrary::{Arbitrary, Unstructured};
use oprofile_device::Settings;
use oprofile_device::kernel::{Kernel, MAX_FORMER_MODULES, MAX_MODULES, MAX_SYMBOLS};
use oprofile_device::test_utils::fuzzing::parse_request;
use oprofile_device::test_utils::{KERNEL_END, KERNEL_START, SyntheticGuest};
use oprofile_wire::control::{
    CpuState, Hello, MAX_NAME_BYTES, ModuleEntry, SymbolEntry, SymbolsHeader, TaskFree, kind,
    status,
};
use oprofile_wire::layout::{LayoutEntry, VmaStore};
use zerocopy::IntoBytes;

use crate::layouts;
use crate::machine::{Machine, VCPUS};
use crate::scene::{Scene, ScenePlan};

/// Most requests of an input: fewer than a ring is long, so that none is posted over another one.
const MAX_REQUESTS: usize = 40;

#[derive(Arbitrary, Debug)]
struct Input {
    says_hello: bool,
    requests: Vec<(Request, Delivery)>,
}

#[derive(Arbitrary, Debug)]
struct Delivery {
    /// With those that follow, at once.
    waits: bool,
    /// The sample queues are synced behind it.
    ticks: u8,
    cuts: Vec<u16>,
    /// A byte of the request is changed.
    spoiled: Option<(u16, u8)>,
}

/// A request, or its payload.
#[derive(Arbitrary, Debug)]
pub enum Request {
    /// The guest's own hello, changed.
    Hello(Vec<HelloEdit>),
    /// A vCPU on or off.
    CpuState(u8, u8),
    /// A part of the module list.
    Modules(Part, Vec<Entry>),
    /// A part of an image's symbols; the count may be off.
    Symbols(Part, u8, i8, Vec<Entry>),
    /// So many tasks.
    TaskFree(u16, i8),
    /// The guest is done.
    Quiesced,
    /// Any payload.
    Raw(u8, u32, Vec<u8>),
    /// Any bytes.
    Bytes(Vec<u8>),
}

/// Flags of a part.
#[derive(Arbitrary, Debug)]
pub struct Part(u8);

/// A module or symbol.
#[derive(Arbitrary, Debug)]
pub struct Entry {
    /// Pages behind the kernel image; symbols lie anywhere.
    base: u8,
    raw: Option<u64>,
    size: u32,
    name: Vec<u8>,
    /// Bytes of it that are announced, if not all.
    announced: Option<u16>,
}

/// A change of a hello.
#[derive(Arbitrary, Debug)]
pub enum HelloEdit {
    /// A field, by number.
    Field(u8, u64),
    /// An entry of the layout.
    Layout(u8, u16, u32),
    /// How VMAs are kept.
    Store(bool),
    /// The layout is cut so much shorter.
    Cut(u8),
}

fn base(index: u8) -> u64 {
    match index {
        0 => 0,
        index => KERNEL_END + u64::from(index) * 0x1000,
    }
}

impl Request {
    /// The request.
    #[must_use]
    pub fn bytes(&self, scene: &Scene) -> Vec<u8> {
        match self {
            Self::Hello(edits) => hello(scene, edits),
            Self::CpuState(vcpu, online) => {
                let state = CpuState {
                    vcpu: u32::from(*vcpu).into(),
                    online: u32::from(*online).into(),
                };
                SyntheticGuest::request(kind::CPU_STATE, 0, state.as_bytes())
            }
            Self::Modules(part, entries) => {
                let mut payload = Vec::new();
                for Entry {
                    base: at,
                    raw,
                    size,
                    name,
                    announced,
                } in entries
                {
                    let name = &name[..name.len().min(MAX_NAME_BYTES + 1)];
                    let entry = ModuleEntry {
                        base: raw.unwrap_or(base(*at)).into(),
                        size: u64::from(*size).into(),
                        name_bytes: announced.unwrap_or(name.len() as u16).into(),
                        reserved: [0; 6],
                    };
                    payload.extend_from_slice(entry.as_bytes());
                    payload.extend_from_slice(name);
                }
                SyntheticGuest::request(kind::MODULES, part.0.into(), &payload)
            }
            Self::Symbols(part, image, off, entries) => {
                let count = (entries.len() as u32).wrapping_add_signed((*off).into());
                let head = SymbolsHeader {
                    image_base: base(*image).into(),
                    count: count.into(),
                    reserved: 0.into(),
                };
                let mut payload = head.as_bytes().to_vec();
                for Entry {
                    base: at,
                    raw,
                    size,
                    name,
                    announced,
                } in entries
                {
                    let name = &name[..name.len().min(MAX_NAME_BYTES + 1)];
                    let entry = SymbolEntry {
                        address: raw.unwrap_or(KERNEL_START + u64::from(*at)).into(),
                        size: (*size).into(),
                        reserved: 0.into(),
                        name_bytes: announced.unwrap_or(name.len() as u16).into(),
                    };
                    payload.extend_from_slice(entry.as_bytes());
                    payload.extend_from_slice(name);
                }
                SyntheticGuest::request(kind::SYMBOLS, part.0.into(), &payload)
            }
            Self::TaskFree(count, off) => {
                let count = u32::from(count % 300);
                let head = TaskFree {
                    count: count.into(),
                    reserved: 0.into(),
                };
                let words = count.saturating_add_signed((*off).into()) as usize;
                let tasks = vec![0x5a; words * size_of::<u64>()];
                let payload = [head.as_bytes(), &tasks].concat();
                SyntheticGuest::request(kind::TASK_FREE, 0, &payload)
            }
            Self::Quiesced => SyntheticGuest::request(kind::QUIESCED, 0, &[]),
            Self::Raw(kind, flags, payload) => {
                SyntheticGuest::request(u16::from(kind % 11), *flags, payload)
            }
            Self::Bytes(bytes) => bytes.clone(),
        }
    }
}

fn hello(scene: &Scene, edits: &[HelloEdit]) -> Vec<u8> {
    let mut hello = scene.guest.hello();
    let mut layout: Vec<LayoutEntry> = scene.guest.shape().layout.clone();
    let mut store = scene.guest.store();
    let mut cut = 0;
    for edit in edits.iter().take(4) {
        match *edit {
            HelloEdit::Field(field, word) => set_field(&mut hello, field, word),
            HelloEdit::Layout(index, size, offset) => {
                let index = usize::from(index) % layout.len();
                layout[index].size = size.into();
                layout[index].offset = offset.into();
            }
            HelloEdit::Store(maple) => {
                store = match maple {
                    true => VmaStore::Maple,
                    false => VmaStore::List,
                };
            }
            HelloEdit::Cut(bytes) => cut = usize::from(bytes),
        }
    }
    let mut bytes = SyntheticGuest::descriptor(store, &layout);
    bytes.truncate(bytes.len().saturating_sub(cut));
    SyntheticGuest::hello_request(&hello, &bytes)
}

fn set_field(hello: &mut Hello, field: u8, word: u64) {
    let halves = [
        &mut hello.page_table_levels,
        &mut hello.cpus,
        &mut hello.release_bytes,
        &mut hello.reserved,
    ];
    let words = [
        &mut hello.capabilities,
        &mut hello.page_table_root,
        &mut hello.linear_map_base,
        &mut hello.kernel_start,
        &mut hello.kernel_end,
        &mut hello.user_end,
        &mut hello.init_task,
        &mut hello.change_words,
    ];
    let field = usize::from(field) % (words.len() + halves.len() + 1);
    let half = field.wrapping_sub(words.len());
    if let Some(target) = words.into_iter().nth(field) {
        *target = word.into();
    } else if let Some(target) = halves.into_iter().nth(half) {
        *target = (word as u16).into();
    } else {
        hello.layout_bytes = (word as u32).into();
    }
}

/// Runs the target.
///
/// # Panics
/// When it finds something.
pub fn run(data: &[u8]) {
    if let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) {
        converse(&input);
    }
}

fn converse(input: &Input) {
    let settings = Settings {
        vcpus: VCPUS,
        buffer_size: 1_024,
        buffer_watershed: 256,
        ..Settings::default()
    };
    let mut machine = Machine::new(
        Scene::new(&ScenePlan::default(), layouts::LIST),
        settings,
        true,
    );
    assert!(machine.activate(machine.device.features()));
    if input.says_hello {
        assert!(machine.hello(), "the guest is as it says");
    }
    let before = machine.device.account().requests;
    let mut rooms = Vec::new();
    for (request, delivery) in input.requests.iter().take(MAX_REQUESTS) {
        let mut bytes = request.bytes(&machine.scene);
        if let Some((at, byte)) = delivery.spoiled
            && !bytes.is_empty()
        {
            let at = usize::from(at) % bytes.len();
            bytes[at] = byte;
        }
        let parsed = parse_request(&bytes);
        if let Err((status, detail)) = parsed
            && status == status::MALFORMED
        {
            assert!(detail as usize <= bytes.len());
        }
        let cuts: Vec<u16> = delivery.cuts.iter().copied().take(1).collect();
        rooms.push((machine.post_request(&bytes, &cuts), parsed));
        if !delivery.waits {
            machine.step(|machine| machine.device.notify(0));
        }
        for _ in 0..delivery.ticks % 4 {
            machine.step(|machine| machine.device.tick());
        }
        if let Some(kernel) = machine.device.kernel() {
            check_kernel(&kernel);
        }
        machine.read();
    }
    machine.step(|machine| machine.device.notify(0));
    let account = machine.device.account();
    assert_eq!(account.requests - before, rooms.len() as u64);
    // A reset lets go of everything.
    machine.step(|machine| drop(machine.device.reset()));
    let used = machine.rings[0].take_used();
    let greeting = if input.says_hello {
        1 + u64::from(VCPUS)
    } else {
        0
    };
    assert_eq!(used.len() as u64, greeting + rooms.len() as u64);
    let mut heads: Vec<u32> = used.iter().map(|(head, _)| *head).collect();
    heads.sort_unstable();
    heads.dedup();
    assert_eq!(heads.len(), used.len(), "answered twice");
    for (room, parsed) in rooms {
        let answer = machine.answer(room).expect("every request is answered");
        assert!((status::OK..=status::BAD_KERNEL).contains(&answer));
        if let Err((status, _)) = parsed {
            assert_eq!(answer, status);
        }
    }
}

/// Lists are sorted and within their caps.
pub(crate) fn check_kernel(kernel: &Kernel) {
    let loaded = kernel.modules.iter().take_while(|module| module.loaded);
    let count = loaded.clone().count();
    assert!(count <= MAX_MODULES && kernel.modules.len() - count <= MAX_FORMER_MODULES);
    assert!(loaded.is_sorted_by_key(|module| module.base));
    assert!(kernel.modules[count..].iter().all(|module| !module.loaded));
    let lists = kernel.modules.iter().map(|module| &module.symbols);
    let mut symbols = 0;
    for list in lists.chain([&kernel.symbols]) {
        assert!(list.is_sorted_by_key(|symbol| symbol.address));
        symbols += list.len();
    }
    assert!(symbols <= MAX_SYMBOLS);
    for module in &kernel.modules {
        let found = kernel.module_at(module.base).expect("it is there itself");
        assert!(found.contains(module.base));
    }
}
