//! What the programs' truth rests on, checked in the files that the guest gets.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::time::SystemTime;

use object::elf::{ET_EXEC, FileHeader64, PF_W, PF_X, PT_DYNAMIC, PT_INTERP, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, SymbolKind};
use oprofile_images::truth::{self, Image, SCENARIOS, Share};
use oprofile_images::{Images, Options, build};
use oprofile_wire::Cursor;
use oprofile_wire::control::{SymbolEntry, take_named};

const PAGE: u64 = 4096;
/// Where the kernel's part for programs begins.
const LOWEST_ADDRESS: u64 = 0x40_0000;
const LE: LittleEndian = LittleEndian;

/// Built once for all tests, where the next run finds it again.
fn images() -> &'static Images {
    static IMAGES: OnceLock<Images> = OnceLock::new();
    IMAGES.get_or_init(|| build(&options()).unwrap())
}

fn options() -> Options {
    Options::new(Path::new(env!("CARGO_TARGET_TMPDIR")).join("images"))
}

fn guest_file(path: &str) -> Vec<u8> {
    let path = images().root.join(path.trim_start_matches('/'));
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All functions that have a share, without those in anonymous memory.
fn shares() -> impl Iterator<Item = &'static Share> {
    SCENARIOS
        .iter()
        .flat_map(|scenario| scenario.groups)
        .flat_map(|group| group.shares)
        .filter(|share| share.image != Image::Anonymous)
}

fn elf_of(image: Image) -> Vec<u8> {
    match image {
        Image::File(path) => guest_file(path),
        Image::Module(_) => guest_file(truth::MODULE_FILE),
        Image::Kernel => fs::read(&images().kernel).unwrap(),
        Image::Anonymous => unreachable!("no file"),
    }
}

/// Address, size and code of a function.
fn function(elf: &[u8], name: &str) -> (u64, u64, Vec<u8>) {
    let file = object::File::parse(elf).unwrap();
    let symbol = file
        .symbols()
        .find(|symbol| symbol.name() == Ok(name) && symbol.kind() == SymbolKind::Text)
        .unwrap_or_else(|| panic!("no function {name}"));
    let section = file
        .section_by_index(symbol.section_index().unwrap())
        .unwrap();
    let code = section
        .data_range(symbol.address(), symbol.size())
        .unwrap()
        .unwrap();
    (symbol.address(), symbol.size(), code.to_vec())
}

/// A loadable segment.
struct Segment {
    offset: u64,
    address: u64,
    flags: u32,
}

fn segments(elf: &[u8]) -> Vec<Segment> {
    let header = FileHeader64::<LittleEndian>::parse(elf).unwrap();
    header
        .program_headers(LE, elf)
        .unwrap()
        .iter()
        .filter(|segment| segment.p_type(LE) == PT_LOAD)
        .map(|segment| Segment {
            offset: segment.p_offset(LE),
            address: segment.p_vaddr(LE),
            flags: segment.p_flags(LE).0,
        })
        .collect()
}

#[test]
fn functions_of_known_truth_are_the_same_code() {
    let (_, _, reference) = function(&guest_file("bin/shares"), "hot");
    for share in shares() {
        let (address, _, code) = function(&elf_of(share.image), share.symbol);
        assert_eq!(code, reference, "{share:?}");
        assert_eq!(address % 64, 0, "{share:?}: the loop's place in its line");
    }
}

#[test]
fn functions_of_known_truth_do_not_overlap() {
    let mut places = BTreeMap::<_, Vec<(u64, u64, &str)>>::new();
    for share in shares() {
        let (address, size, _) = function(&elf_of(share.image), share.symbol);
        let image = format!("{:?}", share.image);
        places
            .entry(image)
            .or_default()
            .push((address, size, share.symbol));
    }
    for (image, mut functions) in places {
        functions.sort_unstable();
        functions.dedup();
        for pair in functions.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{image}: {pair:?}");
        }
    }
}

#[test]
fn scenarios_start_programs_that_are_there() {
    for program in SCENARIOS.iter().flat_map(|scenario| scenario.programs) {
        assert!(!guest_file(program).is_empty(), "{program}");
    }
}

#[test]
fn expected_functions_of_real_code_are_there() {
    for (image, part) in SCENARIOS.iter().flat_map(|scenario| scenario.expected) {
        let elf = elf_of(*image);
        let file = object::File::parse(&*elf).unwrap();
        let names = file.symbols().filter_map(|symbol| symbol.name().ok());
        let mut names = names.map(|name| format!("{:#}", rustc_demangle::demangle(name)));
        assert!(names.any(|name| name.contains(part)), "{part}");
    }
}

#[test]
fn programs_need_no_loader() {
    for entry in fs::read_dir(images().root.join("bin")).unwrap() {
        let path = entry.unwrap().path();
        let elf = fs::read(&path).unwrap();
        let header = FileHeader64::<LittleEndian>::parse(&*elf).unwrap();
        assert_eq!(header.e_type(LE), ET_EXEC, "{}", path.display());
        for segment in header.program_headers(LE, &*elf).unwrap() {
            let kind = segment.p_type(LE);
            let name = path.display();
            assert!(kind != PT_INTERP && kind != PT_DYNAMIC, "{name}");
        }
        for segment in segments(&elf) {
            assert!(segment.address >= LOWEST_ADDRESS);
            let both = PF_W.0 | PF_X.0;
            assert_ne!(segment.flags & both, both, "{}", path.display());
        }
    }
}

#[test]
fn library_text_lies_beyond_the_first_page_of_its_file() {
    let text = segments(&guest_file(truth::LIBWORK))
        .into_iter()
        .find(|segment| segment.flags & PF_X.0 != 0)
        .unwrap();
    assert!(text.offset >= PAGE, "{:#x}", text.offset);
}

#[test]
fn guest_loader_finds_what_the_symbol_table_says() {
    for (path, names) in [
        (truth::LIBWORK, &["lib_mix", "lib_fold"][..]),
        (truth::TRAP_A, &["trap_a"]),
        (truth::TRAP_B, &["trap_b"]),
    ] {
        let elf = guest_file(path);
        let object = guest_rt::elf::Object::parse(&elf).unwrap();
        for name in names {
            let (address, ..) = function(&elf, name);
            assert_eq!(object.function(name), Ok(address), "{path}: {name}");
        }
    }
}

#[test]
fn each_trap_object_has_a_function_that_never_runs_at_the_place_of_the_others_work() {
    let place = |path, name| function(&guest_file(path), name).0;
    assert_eq!(
        place(truth::TRAP_A, "trap_a"),
        place(truth::TRAP_B, "trap_a_place")
    );
    assert_eq!(
        place(truth::TRAP_A, "trap_b_place"),
        place(truth::TRAP_B, "trap_b")
    );
    assert_ne!(
        place(truth::TRAP_A, "trap_a"),
        place(truth::TRAP_B, "trap_b")
    );
}

#[test]
fn module_functions_have_their_index_by_address() {
    let module = guest_file(truth::MODULE_FILE);
    let file = object::File::parse(&*module).unwrap();
    let mut functions: Vec<_> = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_global())
        .map(|symbol| (symbol.address(), symbol.name().unwrap()))
        .collect();
    functions.sort_unstable();
    let names: Vec<_> = functions.into_iter().map(|function| function.1).collect();
    assert_eq!(names, ["mod_cool", "mod_hot"]);
}

#[test]
fn kernel_symbols_travel_in_the_initrd() {
    let kernel = fs::read(&images().kernel).unwrap();
    let (address, size, _) = function(&kernel, "kthread_hot");
    let records = guest_file("boot/kernel.syms");
    let mut cursor = Cursor::new(&records);
    let mut found = false;
    while !cursor.rest().is_empty() {
        let named = take_named::<SymbolEntry>(&mut cursor).unwrap();
        if named.name == b"kthread_hot" {
            assert_eq!(named.entry.address.get(), address);
            assert_eq!(u64::from(named.entry.size.get()), size);
            found = true;
        }
    }
    assert!(found);
}

#[test]
fn second_build_writes_nothing() {
    let times = |images: &Images| -> Vec<SystemTime> {
        [&images.kernel, &images.initrd]
            .iter()
            .map(|path| fs::metadata(path).unwrap().modified().unwrap())
            .collect()
    };
    let first = times(images());
    assert_eq!(times(&build(&options()).unwrap()), first);
}
