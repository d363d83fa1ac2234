import { serve } from '../common/pool.ts';
import { type RecallMixer, type Run, run, type Settings } from './study.ts';

export interface Job {
  mixer: RecallMixer;
  settings: Settings;
}

serve<Job, Run>(({ mixer, settings }, tell) => run(mixer, settings, tell));
