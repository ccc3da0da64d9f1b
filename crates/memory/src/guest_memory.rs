//! The handle on a guest's memory.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use whimbrel_page::{ByteCount, Layout, PageSet, RegionId, Run};

use crate::sys::{self, AdoptedRegion, Mapping, Placer, Populator};
use crate::write_log::{Logged, WriteLog};
use crate::{MemoryError, TrackerKind};

/// What a guest's memory is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backing {
    /// Memory of this process only.
    #[default]
    Private,
    /// A memory file, which other processes may map as well. Only writes through this process's
    /// mapping are tracked.
    Shared,
}

/// How large the pages are that the host should use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Whatever the host does by itself.
    #[default]
    HostDefault,
    /// Huge pages where the host finds them, for [`Backing::Private`]; tracking splits them as
    /// they are written. Shared memory never gets them: a tracker could not tell one that was
    /// swapped out from memory that was never touched.
    Transparent,
    /// Huge pages that the administrator has set aside. Region sizes must be multiples of them,
    /// and dirty pages are found in groups of that size.
    Reserved,
}

/// A guest's memory: a cheap handle that can be cloned and shared between threads.
///
/// Every access copies, volatile, through this handle; the guest may write at the same time. The
/// memory is mapped when it is allocated and populated page by page when it is first touched, so
/// a huge, sparse guest costs what it touches.
#[derive(Clone)]
pub struct GuestMemory {
    shared: Arc<Shared>,
}

struct Shared {
    layout: Layout,
    backing: Backing,
    huge: HugePages,
    /// In the order of the layout.
    mappings: Vec<Mapping>,
    /// Goes after the mappings do: it would look at every page of what is still mapped.
    placer: Placer,
    log: WriteLog,
    owner: Mutex<Option<TrackerKind>>,
    /// Whether the armed tracker makes the kernel's writes fail.
    refuses_kernel: AtomicBool,
}

/// What one system call moves when kernel writes have to go through ordinary memory.
const BOUNCE_SIZE: usize = 64 << 10;

impl GuestMemory {
    /// Maps memory of this shape. Nothing is populated.
    ///
    /// # Errors
    /// [`MemoryError::Allocation`] if the host gives no such address range or memory file.
    pub fn allocate(layout: &Layout, backing: Backing) -> Result<Self, MemoryError> {
        Self::allocate_with(layout, backing, HugePages::HostDefault)
    }

    /// As [`GuestMemory::allocate`], with a wish for huge pages.
    ///
    /// # Errors
    /// As [`GuestMemory::allocate`]; [`MemoryError::HugePageSize`] if a region is no multiple of
    /// a reserved huge page.
    pub fn allocate_with(
        layout: &Layout,
        backing: Backing,
        huge: HugePages,
    ) -> Result<Self, MemoryError> {
        let regions = layout.regions().iter();
        let mappings = regions.map(|region| Mapping::allocate(*region, backing, huge));
        Ok(Self::of(layout, backing, huge, mappings.collect::<Result<_, _>>()?))
    }

    /// Takes memory that the caller has mapped itself, one piece for each region, in the layout's
    /// order, all of it private or all of it shared. Writes through that mapping are tracked as
    /// those through this handle are; discards have to go through this handle.
    ///
    /// # Errors
    /// [`MemoryError::Adopted`] or [`MemoryError::AdoptedRegions`] says what does not fit.
    pub fn adopt(layout: &Layout, pieces: Vec<AdoptedRegion>) -> Result<Self, MemoryError> {
        let (expected, found) = (layout.regions().len(), pieces.len());
        let shared = pieces.iter().filter(|piece| piece.is_shared()).count();
        if found != expected || (shared != 0 && shared != found) {
            return Err(MemoryError::AdoptedRegions { expected, found });
        }
        let backing = if shared == 0 { Backing::Private } else { Backing::Shared };
        let pieces = layout.regions().iter().zip(pieces);
        let mappings = pieces.map(|(region, piece)| Mapping::adopt(*region, piece));
        let mappings = mappings.collect::<Result<_, _>>()?;
        Ok(Self::of(layout, backing, HugePages::HostDefault, mappings))
    }

    fn of(layout: &Layout, backing: Backing, huge: HugePages, mappings: Vec<Mapping>) -> Self {
        let shared = Shared {
            layout: layout.clone(),
            backing,
            huge,
            mappings,
            placer: Placer::default(),
            log: WriteLog::new(layout),
            owner: Mutex::new(None),
            refuses_kernel: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The shape of the memory.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    /// What the memory is made of.
    #[must_use]
    pub fn backing(&self) -> Backing {
        self.shared.backing
    }

    /// The huge pages that were wished for.
    #[must_use]
    pub fn huge_pages(&self) -> HugePages {
        self.shared.huge
    }

    /// Copies guest bytes into `into`.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`]; nothing is copied then.
    pub fn read(
        &self,
        region: RegionId,
        offset: ByteCount,
        into: &mut [u8],
    ) -> Result<(), MemoryError> {
        let (mapping, _) = self.locate(region, offset, into.len() as u64)?;
        mapping.read(offset.0, into);
        Ok(())
    }

    /// Copies `from` into guest memory.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`]; nothing is copied then.
    pub fn write(
        &self,
        region: RegionId,
        offset: ByteCount,
        from: &[u8],
    ) -> Result<(), MemoryError> {
        let (mapping, position) = self.locate(region, offset, from.len() as u64)?;
        mapping.write(offset.0, from);
        self.shared.log.note(Logged::Writes, position, offset.0, from.len() as u64);
        Ok(())
    }

    /// Loads an aligned word, sequentially consistent.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] or [`MemoryError::Misaligned`].
    pub fn load_u64(&self, region: RegionId, offset: ByteCount) -> Result<u64, MemoryError> {
        Ok(self.locate_word(region, offset)?.0.load_u64(offset.0))
    }

    /// Stores an aligned word, sequentially consistent.
    ///
    /// # Errors
    /// As [`GuestMemory::load_u64`].
    pub fn store_u64(
        &self,
        region: RegionId,
        offset: ByteCount,
        value: u64,
    ) -> Result<(), MemoryError> {
        let (mapping, position) = self.locate_word(region, offset)?;
        mapping.store_u64(offset.0, value);
        self.shared.log.note(Logged::Writes, position, offset.0, 8);
        Ok(())
    }

    /// Adds to an aligned word, wrapping and sequentially consistent; returns what it was.
    ///
    /// # Errors
    /// As [`GuestMemory::load_u64`].
    pub fn fetch_add_u64(
        &self,
        region: RegionId,
        offset: ByteCount,
        value: u64,
    ) -> Result<u64, MemoryError> {
        let (mapping, position) = self.locate_word(region, offset)?;
        let before = mapping.fetch_add_u64(offset.0, value);
        self.shared.log.note(Logged::Writes, position, offset.0, 8);
        Ok(before)
    }

    /// Copies all bytes of `run` into `into`, once. Reading what was never touched may populate
    /// it: see [`GuestMemory::touched`].
    ///
    /// # Errors
    /// [`MemoryError::NoSuchRun`], or [`MemoryError::BufferSize`] if `into` is not exactly as
    /// large as the run.
    pub fn copy_run(&self, run: Run, into: &mut [u8]) -> Result<(), MemoryError> {
        let (mapping, _) = self.locate_run(run)?;
        check_buffer(run, into.len())?;
        mapping.read(run.first.offset().0, into);
        Ok(())
    }

    /// Has a run come into the processor's caches, as it is about to be copied. Nothing is read.
    pub fn prefetch(&self, run: Run) {
        if let Ok((mapping, _)) = self.locate_run(run) {
            mapping.prefetch(run.first.offset().0, run.count.bytes().0 as usize);
        }
    }

    /// Makes the pages of `run` zero and gives their memory back, where the host takes it. Counts
    /// as a write for every tracker.
    ///
    /// # Errors
    /// [`MemoryError::NoSuchRun`].
    pub fn discard(&self, run: Run) -> Result<(), MemoryError> {
        let (mapping, position) = self.locate_run(run)?;
        let (offset, len) = (run.first.offset().0, run.count.bytes().0);
        mapping.discard(offset, len);
        self.shared.log.note(Logged::Discards, position, offset, len);
        Ok(())
    }

    /// Reads up to `len` bytes from `source` into guest memory, through a buffer; stops early
    /// only at the end of `source`. Returns how many bytes were written.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`], or [`MemoryError::Source`] if `source` fails; what was read
    /// before that is in guest memory.
    pub fn read_from(
        &self,
        source: &mut impl Read,
        region: RegionId,
        offset: ByteCount,
        len: ByteCount,
    ) -> Result<ByteCount, MemoryError> {
        self.locate(region, offset, len.0)?;
        let mut buffer = vec![0; BOUNCE_SIZE.min(len.0 as usize)];
        fill(len, |done| {
            let wanted = BOUNCE_SIZE.min((len.0 - done) as usize);
            let count = source.read(&mut buffer[..wanted])?;
            self.write(region, ByteCount(offset.0 + done), &buffer[..count]).expect("checked");
            Ok(count)
        })
    }

    /// As [`GuestMemory::read_from`], but the kernel writes straight into guest memory where the
    /// tracker in force sees that.
    ///
    /// # Errors
    /// As [`GuestMemory::read_from`].
    pub fn read_file(
        &self,
        mut file: &File,
        region: RegionId,
        offset: ByteCount,
        len: ByteCount,
    ) -> Result<ByteCount, MemoryError> {
        let (mapping, position) = self.locate(region, offset, len.0)?;
        if self.shared.refuses_kernel.load(Ordering::SeqCst) || sys::writes_behind_the_mmu(file) {
            return self.read_from(&mut file, region, offset, len);
        }
        let mut bounced = false;
        let direct = fill(len, |done| {
            let outcome = mapping.read_file(offset.0 + done, (len.0 - done) as usize, file);
            let count = match outcome {
                Err(error) if sys::is_fault(&error) => {
                    bounced = true;
                    return Ok(0);
                }
                other => other?,
            };
            self.shared.log.note(Logged::Writes, position, offset.0 + done, count as u64);
            Ok(count)
        })?;
        if !bounced {
            return Ok(direct);
        }
        // A tracker that refuses kernel writes was armed while this went on.
        let rest = ByteCount(len.0 - direct.0);
        Ok(direct + self.read_from(&mut file, region, offset + direct, rest)?)
    }

    /// The pages that may hold something else than zeros: those the host has populated, in
    /// memory or in swap. Costs what is touched, not what exists. Ask *after* arming a tracker:
    /// what is populated later is then harvested.
    ///
    /// # Errors
    /// [`MemoryError::Os`] if the host does not say.
    pub fn touched(&self) -> Result<PageSet, MemoryError> {
        let mut found = PageSet::new(self.layout());
        for (region, mapping) in self.regions() {
            mapping
                .touched(|first, count| {
                    found.insert(Run::new(region, first, count));
                })
                .map_err(MemoryError::os("list the populated pages of guest memory"))?;
        }
        Ok(found)
    }

    /// How much host memory the guest's pages take, swap included.
    ///
    /// # Errors
    /// As [`GuestMemory::touched`].
    pub fn resident(&self) -> Result<ByteCount, MemoryError> {
        let each = self.shared.mappings.iter().map(Mapping::resident);
        each.sum::<io::Result<u64>>()
            .map(ByteCount)
            .map_err(MemoryError::os("count the populated pages of guest memory"))
    }

    /// Gives the pages of these runs, all of which are about to be written, their memory at once.
    ///
    /// # Panics
    /// If the guest has no such pages.
    pub(crate) fn populate(
        &self,
        populator: &Populator,
        runs: impl Iterator<Item = Run>,
    ) -> Result<(), MemoryError> {
        let pieces = runs.map(|run| {
            let (mapping, _) = self.locate_run(run).expect("pages of this guest");
            (mapping, run.first.offset().0, run.count.bytes().0 as usize)
        });
        let populated = populator.populate(pieces);
        populated.map_err(MemoryError::os("give the guest memory for pages that arrived"))
    }

    /// Gets ready for [`GuestMemory::place`], if the host can do that and no huge pages were
    /// wished for.
    pub(crate) fn begin_placing(&self) {
        if self.shared.huge == HugePages::HostDefault {
            self.placer().begin(self.shared.mappings.iter());
        }
    }

    /// Gives pages that have no memory theirs, and writes them, in one step. Where that cannot be
    /// done some may be written, and `false` is returned.
    ///
    /// # Panics
    /// If the guest has no such pages, or `from` is not as large as they are.
    pub(crate) fn place(&self, run: Run, from: &[u8]) -> bool {
        let (mapping, position) = self.locate_run(run).expect("pages of this guest");
        let (offset, len) = (run.first.offset().0, run.count.bytes().0);
        assert_eq!(from.len() as u64, len);
        let placed = self.placer().place(mapping, offset, from);
        if placed {
            self.shared.log.note(Logged::Writes, position, offset, len);
        }
        placed
    }

    /// What places pages.
    pub(crate) fn placer(&self) -> &Placer {
        &self.shared.placer
    }

    /// The mappings with their regions, in the order of the layout.
    pub(crate) fn regions(&self) -> impl Iterator<Item = (RegionId, &Mapping)> {
        let ids = self.shared.layout.regions().iter().map(|region| region.id);
        ids.zip(&self.shared.mappings)
    }

    pub(crate) fn log(&self) -> &WriteLog {
        &self.shared.log
    }

    /// Whether writes by the kernel have to go through ordinary memory from now on.
    pub(crate) fn refuse_kernel_writes(&self, refuse: bool) {
        self.shared.refuses_kernel.store(refuse, Ordering::SeqCst);
    }

    /// Which tracker has this memory.
    pub(crate) fn tracker_owner(&self) -> MutexGuard<'_, Option<TrackerKind>> {
        self.shared.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locate(
        &self,
        region: RegionId,
        offset: ByteCount,
        len: u64,
    ) -> Result<(&Mapping, usize), MemoryError> {
        let position = self.position(region);
        let found = position.map(|position| (&self.shared.mappings[position], position));
        let end = offset.0.checked_add(len);
        found
            .filter(|(mapping, _)| end.is_some_and(|end| end <= mapping.size()))
            .ok_or(MemoryError::OutOfRange { region, offset, len: ByteCount(len) })
    }

    fn locate_word(
        &self,
        region: RegionId,
        offset: ByteCount,
    ) -> Result<(&Mapping, usize), MemoryError> {
        if !offset.0.is_multiple_of(8) {
            return Err(MemoryError::Misaligned { region, offset });
        }
        self.locate(region, offset, 8)
    }

    fn locate_run(&self, run: Run) -> Result<(&Mapping, usize), MemoryError> {
        if !self.layout().contains(run) {
            return Err(MemoryError::NoSuchRun(run));
        }
        self.locate(run.region, run.first.offset(), run.count.bytes().0)
    }

    /// Where a region stands in the layout. Most guests number their regions from 0 on.
    fn position(&self, region: RegionId) -> Option<usize> {
        let regions = self.layout().regions();
        let guess = region.0 as usize;
        if regions.get(guess).is_some_and(|found| found.id == region) {
            return Some(guess);
        }
        self.layout().position(region)
    }
}

impl fmt::Debug for GuestMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { layout, backing, .. } = &*self.shared;
        f.debug_struct("GuestMemory").field("layout", layout).field("backing", backing).finish()
    }
}

/// [`MemoryError::BufferSize`] unless a buffer of `len` bytes holds exactly the pages of `run`.
pub(crate) fn check_buffer(run: Run, len: usize) -> Result<(), MemoryError> {
    let found = ByteCount(len as u64);
    if found == run.count.bytes() { Ok(()) } else { Err(MemoryError::BufferSize { run, found }) }
}

/// Calls `step` with the bytes done so far until `len` bytes are done or a step does none.
fn fill(
    len: ByteCount,
    mut step: impl FnMut(u64) -> io::Result<usize>,
) -> Result<ByteCount, MemoryError> {
    let mut done = 0;
    while done < len.0 {
        match step(done) {
            Ok(0) => break,
            Ok(count) => done += count as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(MemoryError::Source(error)),
        }
    }
    Ok(ByteCount(done))
}
