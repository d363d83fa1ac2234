import { serve } from '../common/pool.ts';
import { ARMS, TASKS, type TaskName } from './problems.ts';
import { type Run, run, type Settings } from './study.ts';

export interface Job {
  task: TaskName;
  /** Of an arm. */
  mixer: string;
  settings: Settings;
}

serve<Job, Run>(({ task, mixer, settings }, tell) =>
  run(TASKS[task](), ARMS.find((arm) => arm.name === mixer)!, settings, tell),
);
