//! The big session: 200 images, 20,000 functions, two events, all of it computed.
//!
//! Three of four images are programs, every fourth is a library of the program after it. Each has 100 functions of 64 bytes at
//! `0x1000`. The samples of a function, different for each function of each event, are divided between its first byte and
//! one behind.

use std::fs;
use std::path::Path;

use object::write::elf::{FileHeader, SectionHeader, Sym, Writer};
use object::{Endianness, elf};
use oprofile_session::sample_file::{self, Header};

use crate::Error;
use crate::stage::set_mtime;

const IMAGES: u64 = 200;
const FUNCTIONS: u64 = 100;
/// Bytes of a function.
const SIZE: u64 = FUNCTION.len() as u64;
/// `nop`s.
const FUNCTION: [u8; 64] = [0x90; 64];
/// Address and file offset of the code.
const TEXT: u64 = 0x1000;
/// Of all images, seconds since 1970.
const MTIME: u64 = 1_650_000_000;
/// Sample counts are below this prime, so that the first 1,000,003 of them are all different.
const PRIME: u64 = 1_000_003;
/// Name and period of the events; the second was counted in every third function only.
const EVENTS: [(&str, u32, usize); 2] = [("EV_ONE", 10_000, 1), ("EV_TWO", 5_000, 3)];

/// Writes `sessions/big` and its images in `bigroot` below `data`. The counts depend on `seed`.
///
/// # Errors
/// When a file cannot be written.
pub fn write(data: &Path, seed: u64) -> Result<(), Error> {
    let mut counts = Counts { seed, drawn: 0 };
    for index in 0..IMAGES {
        let path = image_path(index);
        let image = data.join("bigroot").join(&path[1..]);
        write_file(&image, &encode_image(&function_names(index))?)?;
        set_mtime(&image, MTIME).map_err(Error::io(&image))?;
        // A library was used by the program that follows it.
        let program = match is_library(index) {
            true => image_path(index + 1),
            false => path.clone(),
        };
        for (event, period, every) in EVENTS {
            let mut samples = Vec::new();
            for function in (0..FUNCTIONS).step_by(every) {
                let count = counts.draw();
                let offset = TEXT + function * SIZE;
                let at_entry = count / 3;
                match at_entry {
                    0 => samples.push((offset, count)),
                    _ => {
                        samples.push((offset, at_entry));
                        samples.push((offset + 8 + function % 40, count - at_entry));
                    }
                }
            }
            let file = data.join(format!(
                "sessions/big/samples/current/{{root}}{program}/{{dep}}/{{root}}{path}/{event}.{period}.0.all.all.all"
            ));
            let header = Header::timer(period, 0, MTIME);
            write_file(&file, &sample_file::encode(&header, samples.into_iter()))?;
        }
    }
    Ok(())
}

/// The counts, one after the other.
#[derive(Debug)]
struct Counts {
    seed: u64,
    drawn: u64,
}

impl Counts {
    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        (self.drawn * 7919 * (self.seed + 10) + 17) % PRIME + 1
    }
}

const fn is_library(index: u64) -> bool {
    index.is_multiple_of(4)
}

fn image_path(index: u64) -> String {
    match is_library(index) {
        true => format!("/srv/big/lib/lib{index:03}.so"),
        false => format!("/srv/big/bin/prog{index:03}"),
    }
}

fn function_names(index: u64) -> Vec<String> {
    let kind = if is_library(index) { "lib" } else { "run" };
    let plain = (0..FUNCTIONS - 2).map(|function| format!("{kind}_{index:03}_fn{function:02}"));
    let mangled = ["getEi", "putEil"].map(|end| format!("_ZN7Big{index:04}3{end}"));
    plain.chain(mangled).collect()
}

/// A shared object with a function of each name, one behind the other.
fn encode_image(names: &[String]) -> Result<Vec<u8>, Error> {
    let code = FUNCTION.repeat(names.len());
    let mut bytes = Vec::new();
    let mut writer = Writer::new(Endianness::Little, true, &mut bytes);
    writer.reserve_file_header();
    writer.reserve_until(TEXT);
    let text_offset = writer.reserve(code.len() as u64, 1);
    writer.reserve_null_section_index();
    let text_name = writer.add_section_name(b".text");
    let text = writer.reserve_section_index();
    writer.reserve_symtab_section_index();
    writer.reserve_strtab_section_index();
    writer.reserve_shstrtab_section_index();
    writer.reserve_null_symbol_index();
    let strings: Vec<_> = names
        .iter()
        .map(|name| {
            writer.reserve_symbol_index(Some(text));
            writer.add_string(name.as_bytes())
        })
        .collect();
    writer.reserve_symtab();
    writer.reserve_strtab()?;
    writer.reserve_shstrtab()?;
    writer.reserve_section_headers();

    writer.write_file_header(&FileHeader {
        os_abi: elf::ELFOSABI_SYSV,
        abi_version: 0,
        e_type: elf::ET_DYN,
        e_machine: elf::EM_X86_64,
        e_entry: TEXT,
        e_flags: elf::FileFlags(0),
    })?;
    writer.pad_until(text_offset);
    writer.write(&code);
    writer.write_null_symbol();
    for (index, &string) in (0..).zip(&strings) {
        let st_name = writer.string_offset(Some(string));
        writer.write_symbol(&Sym {
            section: Some(text.0),
            st_name,
            st_info: elf::SymbolInfo::new(elf::STB_GLOBAL, elf::STT_FUNC),
            st_other: elf::SymbolOther(0),
            st_shndx: elf::SymbolSection(0),
            st_value: TEXT + index * SIZE,
            st_size: SIZE,
        });
    }
    writer.write_strtab();
    writer.write_shstrtab();
    writer.write_null_section_header();
    let sh_name = writer.section_name_offset(Some(text_name));
    writer.write_section_header(&SectionHeader {
        sh_name,
        sh_type: elf::SHT_PROGBITS,
        sh_flags: elf::SHF_ALLOC | elf::SHF_EXECINSTR,
        sh_addr: TEXT,
        sh_offset: TEXT,
        sh_size: code.len() as u64,
        sh_link: 0,
        sh_info: 0,
        sh_addralign: 16,
        sh_entsize: 0,
    });
    writer.write_symtab_section_header(1);
    writer.write_strtab_section_header();
    writer.write_shstrtab_section_header();
    Ok(bytes)
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    fs::write(path, bytes).map_err(Error::io(path))
}
